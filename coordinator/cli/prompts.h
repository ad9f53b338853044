// Prompts as they stand on the command line and in files.
#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace whalepod {

// "1,2,3", spaces allowed. INVALID_ARGUMENT names the item.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

// JSON lines with `prompt_token_ids`; empty lines don't count. INVALID_ARGUMENT names the line;
// FAILED_PRECONDITION for `messages` and `prompt`, which need a tokenizer.
absl::StatusOr<std::vector<std::vector<uint32_t>>> ReadPrompts(std::istream& in,
                                                               const std::string& name);

}  // namespace whalepod
