// From what a client sends to the tokens of a prompt.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/model_text.h"
#include "coordinator/text/reasoning_parser.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

struct Prompt {
  std::string field;  // that it came in, for errors about it
  std::vector<uint32_t> ids;
  ReasoningStart reasoning = ReasoningStart::kClosed;  // where the output begins
  std::string text;                                    // empty for a prompt of ids
};

// Errors of all: FAILED_PRECONDITION where the deployment lacks the tokenizer or the chat template,
// saying why; INVALID_ARGUMENT naming the field for what cannot be encoded.

// Raw text; with kYes after the begin-of-sequence token, where the tokenizer has one.
absl::StatusOr<Prompt> EncodeText(const ModelText& model, const std::string& text, AddBos add_bos);
// A conversation, open for the assistant's turn.
absl::StatusOr<Prompt> EncodeChat(const ModelText& model, const v1::Chat& chat);
// Ids as they are, to be checked by the caller.
Prompt PromptOfIds(const ModelText& model, const v1::TokenIds& ids);
// Whichever the request has; INVALID_ARGUMENT if none.
absl::StatusOr<Prompt> ReadPrompt(const ModelText& model, const v1::GenerateRequest& request);

}  // namespace whalepod
