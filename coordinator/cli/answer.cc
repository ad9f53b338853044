#include "coordinator/cli/answer.h"

#include <unistd.h>

#include <cstdio>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/compact_json.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;

// Null for a token without one: the first of a prompt.
Json LogprobsOf(const std::vector<v1::GeneratedToken>& tokens) {
  Json all = Json::array();
  for (const v1::GeneratedToken& token : tokens) {
    Json top = Json::array();
    for (const v1::TokenLogprob& best : token.top()) {
      top.push_back({{"token_id", best.token_id()}, {"logprob", best.logprob()}});
    }
    const Json logprob = token.has_logprob() ? Json(token.logprob()) : Json();
    all.push_back({{"token_id", token.token_id()}, {"logprob", logprob}, {"top", std::move(top)}});
  }
  return all;
}

const char* NameOf(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    default:
      return "unspecified";
  }
}

void Write(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

std::string AnswerJson(const Client::Answer& answer, size_t index, JsonOptions options) {
  const Client::Choice& choice = answer.choices[index];
  Json ids = Json::array();
  for (const v1::GeneratedToken& token : choice.tokens) ids.push_back(token.token_id());
  const v1::Usage& usage = choice.finished.usage();
  Json json = {{"text", choice.text},
               {"reasoning", choice.reasoning},
               {"token_ids", std::move(ids)},
               {"finish_reason", NameOf(choice.finished.reason())},
               {"usage",
                {{"prompt_tokens", usage.prompt_tokens()},
                 {"cached_tokens", usage.cached_tokens()},
                 {"completion_tokens", usage.completion_tokens()},
                 {"reasoning_tokens", usage.reasoning_tokens()},
                 {"cost_dollars", usage.cost_dollars()}}},
               {"seed", answer.started.seed()},
               {"request_id", answer.started.request_id()}};
  if (answer.choices.size() > 1) json["choice"] = index;
  if (options.logprobs) json["logprobs"] = LogprobsOf(choice.tokens);
  if (options.prompt_logprobs) json["prompt_logprobs"] = LogprobsOf(answer.prompt);
  return CompactJson(json);
}

void AnswerPrinter::Switch(v1::SpanKind kind) {
  if (kind == kind_) return;
  const bool reasoned = kind_ == v1::SPAN_KIND_REASONING;
  if (kind == v1::SPAN_KIND_REASONING) {
    Write(terminal_ ? "\033[2m" : "<think>");
  } else if (reasoned) {
    Write(terminal_ ? "\033[0m\n" : "</think>");
  }
  at_beginning_ = terminal_ && reasoned;
  kind_ = kind;
}

void AnswerPrinter::Show(const v1::GenerateResponse::Tokens& tokens) {
  for (const v1::TextSpan& span : tokens.spans()) {
    Switch(span.kind());
    absl::string_view text = span.text();
    if (at_beginning_) text = absl::StripLeadingAsciiWhitespace(text);
    if (!text.empty()) at_beginning_ = false;
    Write(text);
  }
  if (has_tokenizer_) return;
  for (const v1::GeneratedToken& token : tokens.tokens()) {
    Write(absl::StrCat(token.token_id(), " "));
  }
}

void AnswerPrinter::End() {
  if (kind_ == v1::SPAN_KIND_REASONING && terminal_) Write("\033[0m");
  Write("\n");
  kind_ = v1::SPAN_KIND_UNSPECIFIED;
}

bool OnTerminal() { return isatty(STDOUT_FILENO) != 0; }

int ShowLive(bool has_tokenizer,
             const std::function<absl::StatusOr<Client::Answer>(const Client::OnTokens&)>& ask) {
  AnswerPrinter printer(OnTerminal(), has_tokenizer);
  const absl::StatusOr<Client::Answer> answer =
      ask([&printer](const v1::GenerateResponse::Tokens& tokens) { printer.Show(tokens); });
  if (answer.ok() || OnTerminal()) printer.End();
  return answer.ok() ? 0 : ReportError(answer.status());
}

}  // namespace whalepod
