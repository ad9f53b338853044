// What tokens cost: the one place where usage becomes dollars.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Dollars for a million tokens. Reasoning is output.
struct Prices {
  // As DeepSeek lists R1 (deepseek-reasoner).
  double cached_input = 0.14, input = 0.55, output = 2.19;

  // {"cached_input", "input", "output"}: all of them and nothing else. INVALID_ARGUMENT names
  // `where` and the key.
  static absl::StatusOr<Prices> Parse(absl::string_view json, const std::string& where);
  // Those of a file. Errors as ReadWholeFile's and Parse's.
  static absl::StatusOr<Prices> Read(const std::string& path);

  // Dollars. Does not look at usage's own cost.
  double Of(const v1::Usage& usage) const;
};

}  // namespace whalepod
