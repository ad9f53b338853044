// How a completion is shown.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/cli/client.h"

namespace whalepod {

// The line that `generate --json` prints of a choice: docs of the keys are in README.md. No
// newline.
struct JsonOptions {
  bool logprobs = false;
  bool prompt_logprobs = false;
};
std::string AnswerJson(const Client::Answer& answer, size_t choice, JsonOptions options);

// Shows an answer on standard output as it comes. On a terminal reasoning is dim and an empty line
// sets the answer apart; elsewhere reasoning stands between "<think>" and "</think>". Token ids
// where the deployment has no tokenizer.
class AnswerPrinter {
 public:
  AnswerPrinter(bool terminal, bool has_tokenizer)
      : terminal_(terminal), has_tokenizer_(has_tokenizer) {}

  void Show(const v1::GenerateResponse::Tokens& tokens);
  // Ends the last line, and dimness.
  void End();

 private:
  void Switch(v1::SpanKind kind);

  const bool terminal_;
  const bool has_tokenizer_;
  v1::SpanKind kind_ = v1::SPAN_KIND_UNSPECIFIED;  // of what was shown last
  bool at_beginning_ = true;  // of an answer after reasoning: white space there is not shown
};

// Whether standard output is a terminal.
bool OnTerminal();

// Shows one answer while it comes; returns the exit status. ask: makes the call.
int ShowLive(bool has_tokenizer,
             const std::function<absl::StatusOr<Client::Answer>(const Client::OnTokens&)>& ask);

}  // namespace whalepod
