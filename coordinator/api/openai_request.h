// OpenAI's request bodies as Generate requests.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// The body of /v1/chat/completions or /v1/completions.
struct OpenAiRequest {
  v1::GenerateRequest generate;
  // A completion's further prompts, each with the same options: kMostPrompts with the first.
  std::vector<v1::GenerateRequest> more;
  bool chat = true;
  bool stream = false;
  bool include_usage = false;     // a last chunk with the usage
  bool continuous_usage = false;  // usage in every chunk
  bool logprobs = false;
  bool echo = false;  // a completion begins with its prompt
};

// INVALID_ARGUMENT with the field by its name in the body. null counts as absent. Fields that
// nobody knows are ignored, as vLLM does; known ones that are not built (tools, response_format
// other than text, ...) are refused unless they ask for nothing. Ranges are
// ValidateGenerate's to check.
absl::StatusOr<OpenAiRequest> ParseChatCompletion(absl::string_view body);
absl::StatusOr<OpenAiRequest> ParseCompletion(absl::string_view body);

// The bodies of /tokenize and /detokenize.
absl::StatusOr<v1::TokenizeRequest> ParseTokenize(absl::string_view body);
absl::StatusOr<v1::DetokenizeRequest> ParseDetokenize(absl::string_view body);

}  // namespace whalepod
