// Prompts as they stand on the command line and in files.
#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// "1,2,3", spaces allowed. INVALID_ARGUMENT names the item.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

// JSON lines, each with one of `messages` (as OpenAI's: role, content, tool_calls), `prompt` and
// `prompt_token_ids`; other keys and empty lines don't count. The requests have a prompt and
// nothing else. INVALID_ARGUMENT names the line.
absl::StatusOr<std::vector<v1::GenerateRequest>> ReadPrompts(std::istream& in,
                                                             const std::string& name);

}  // namespace whalepod
