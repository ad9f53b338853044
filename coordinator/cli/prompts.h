// Prompts as they stand on the command line and in files.
#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// "1,2,3", spaces allowed. INVALID_ARGUMENT names the item.
absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text);

// INVALID_ARGUMENT names the first byte that is not UTF-8, which no request can carry.
absl::Status CheckUtf8(absl::string_view text);

// JSON lines, each with one of `messages` (as OpenAI's: role, content, tool_calls), `prompt` and
// `prompt_token_ids`; other keys and empty lines don't count. The requests have a prompt and
// nothing else. INVALID_ARGUMENT names the line, or says that there is no prompt; DATA_LOSS if the
// file can't be read.
absl::StatusOr<std::vector<v1::GenerateRequest>> ReadPrompts(std::istream& in,
                                                             const std::string& name);

}  // namespace whalepod
