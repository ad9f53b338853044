// Who may ask, and in whose name: the name is what fair shares and usage are counted by.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace whalepod {

class ApiKeys {
 public:
  // No keys: everybody may ask, in the name of "".
  ApiKeys() = default;

  // "KEY" or "NAME:KEY" each; without a name the keys are key-1, key-2 and so on by their places.
  // usage_admin: the name of the one that sees the accounts of all; empty: none does.
  // INVALID_ARGUMENT for an empty one, one with other than visible ASCII characters, a name or key
  // given twice, and an admin that is none of them; the key itself is never shown.
  static absl::StatusOr<ApiKeys> Parse(const std::vector<std::string>& entries,
                                       const std::string& usage_admin = "");

  // The name of the key in "Bearer KEY", which is what the header `authorization` holds.
  // UNAUTHENTICATED if there are keys and this is none of them; takes as long for any wrong one.
  absl::StatusOr<std::string> NameOf(absl::string_view authorization) const;
  // Whether a caller sees the accounts of all, not its own alone.
  bool SeesAllUsage(const std::string& name) const { return keys_.empty() || name == usage_admin_; }

 private:
  struct Key {
    std::string name, sha256;
  };

  std::vector<Key> keys_;
  std::string usage_admin_;  // of a key; empty: no caller has this name
};

}  // namespace whalepod
