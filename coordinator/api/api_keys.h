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
  // INVALID_ARGUMENT for an empty one, one with other than visible ASCII characters, and a name or
  // key given twice; the key itself is never shown.
  static absl::StatusOr<ApiKeys> Parse(const std::vector<std::string>& entries);

  // The name of the key in "Bearer KEY", which is what the header `authorization` holds.
  // UNAUTHENTICATED if there are keys and this is none of them; takes as long for any wrong one.
  absl::StatusOr<std::string> NameOf(absl::string_view authorization) const;

 private:
  struct Key {
    std::string name, sha256;
  };

  std::vector<Key> keys_;
};

}  // namespace whalepod
