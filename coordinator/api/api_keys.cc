#include "coordinator/api/api_keys.h"

#include <openssl/crypto.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/errors.h"
#include "proto/plan/hash.h"

namespace whalepod {

absl::StatusOr<ApiKeys> ApiKeys::Parse(const std::vector<std::string>& entries,
                                       const std::string& usage_admin) {
  ApiKeys keys;
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::string& entry = entries[i];
    const size_t colon = entry.find(':');
    const std::string name =
        colon == std::string::npos ? absl::StrCat("key-", i + 1) : entry.substr(0, colon);
    const std::string key = colon == std::string::npos ? entry : entry.substr(colon + 1);
    const auto wrong = [i](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("--api-key: entry ", i + 1, " ", what));
    };
    if (name.empty() || key.empty()) return wrong("is empty, must be KEY or NAME:KEY");
    if (!std::all_of(entry.begin(), entry.end(), absl::ascii_isgraph)) {
      return wrong("has other than visible ASCII characters");
    }
    for (const Key& other : keys.keys_) {
      if (other.name == name) return wrong(absl::StrCat("has the name of another: ", name));
      if (other.sha256 == Sha256(key)) return wrong("is the key of another");
    }
    keys.keys_.push_back({name, Sha256(key)});
  }
  const bool known = std::any_of(keys.keys_.begin(), keys.keys_.end(),
                                 [&](const Key& key) { return key.name == usage_admin; });
  if (!known && !usage_admin.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--usage-admin: no --api-key has the name ", usage_admin));
  }
  keys.usage_admin_ = usage_admin;
  return keys;
}

absl::StatusOr<std::string> ApiKeys::NameOf(absl::string_view authorization) const {
  if (keys_.empty()) return "";
  constexpr absl::string_view kBearer = "bearer ";
  const Key* found = nullptr;
  if (absl::StartsWithIgnoreCase(authorization, kBearer)) {
    const std::string digest =
        Sha256(std::string(absl::StripAsciiWhitespace(authorization.substr(kBearer.size()))));
    for (const Key& key : keys_) {
      if (CRYPTO_memcmp(key.sha256.data(), digest.data(), digest.size()) == 0) found = &key;
    }
  }
  if (found != nullptr) return found->name;
  return WithField(absl::UnauthenticatedError(
                       authorization.empty() ? "an API key is needed: \"Authorization: Bearer KEY\""
                                             : "the API key is not one of this deployment's"),
                   "authorization", "INVALID_API_KEY");
}

}  // namespace whalepod
