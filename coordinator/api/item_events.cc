#include "coordinator/api/item_events.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "coordinator/api/resumable_stream.h"
#include "coordinator/usage/sums.h"

namespace whalepod {
namespace {

void GatherTokens(const v1::GenerateResponse::Tokens& tokens, v1::JobAnswer::Choice* choice) {
  CHECK_EQ(tokens.tokens_size(), 1);
  size_t reasoning = 0, text = 0;
  for (const v1::TextSpan& span : tokens.spans()) {
    const bool reasons = span.kind() == v1::SPAN_KIND_REASONING;
    (reasons ? choice->mutable_reasoning() : choice->mutable_text())->append(span.text());
    (reasons ? reasoning : text) += span.text().size();
  }
  choice->add_token_ids(tokens.tokens(0).token_id());
  choice->add_reasoning_bytes(static_cast<uint32_t>(reasoning));
  choice->add_text_bytes(static_cast<uint32_t>(text));
}

// Takes the first `bytes` from `rest`, as far as there are so many.
absl::string_view Cut(size_t bytes, absl::string_view* rest) {
  const absl::string_view cut = rest->substr(0, bytes);
  rest->remove_prefix(cut.size());
  return cut;
}

void AddSpan(v1::SpanKind kind, absl::string_view text, v1::GenerateResponse::Tokens* tokens) {
  if (text.empty()) return;
  v1::TextSpan* const span = tokens->add_spans();
  span->set_kind(kind);
  span->set_text(std::string(text));
}

}  // namespace

void Gather(const v1::GenerateResponse& message, v1::JobAnswer* answer) {
  if (message.has_started()) {
    answer->set_request_id(message.started().request_id());
    *answer->mutable_started() = message.started();
  }
  if (message.has_tokens()) {
    GatherTokens(message.tokens(),
                 answer->mutable_choices(static_cast<int>(message.tokens().choice())));
  }
  if (!message.has_finished()) return;
  const v1::GenerateResponse::Finished& finished = message.finished();
  v1::JobAnswer::Choice* const choice =
      answer->mutable_choices(static_cast<int>(finished.choice()));
  choice->set_finish_reason(finished.reason());
  choice->set_stop(finished.stop());
  AddChoice(finished.usage(), finished.choice(), answer->mutable_usage());
}

v1::GenerateResponse ForWatcher(const v1::GenerateResponse& message) {
  v1::GenerateResponse told = message;
  if (!told.has_tokens()) return told;
  for (v1::GeneratedToken& token : *told.mutable_tokens()->mutable_tokens()) {
    const uint32_t id = token.token_id();
    token.Clear();
    token.set_token_id(id);
  }
  return told;
}

v1::JournalEvents EventsOf(const v1::JobAnswer& answer, uint32_t first) {
  v1::JournalEvents events;
  if (first == 0 && answer.has_started()) {
    *events.add_events()->mutable_started() = answer.started();
  }
  if (answer.choices().empty()) return events;
  const v1::JobAnswer::Choice& choice = answer.choices(0);
  absl::string_view reasoning = choice.reasoning(), text = choice.text();
  // Answers that an earlier version wrote have no lengths: all their text comes with the last
  // token.
  const bool told = choice.text_bytes_size() == choice.token_ids_size() &&
                    choice.reasoning_bytes_size() == choice.token_ids_size();
  for (int t = 0; t < choice.token_ids_size(); ++t) {
    const size_t all = t + 1 == choice.token_ids_size() ? std::string::npos : 0;
    const absl::string_view reasoned = Cut(told ? choice.reasoning_bytes(t) : all, &reasoning);
    const absl::string_view answered = Cut(told ? choice.text_bytes(t) : all, &text);
    if (static_cast<uint32_t>(t) + 1 < first) continue;
    v1::GenerateResponse::Tokens* const tokens = events.add_events()->mutable_tokens();
    tokens->add_tokens()->set_token_id(choice.token_ids(t));
    AddSpan(v1::SPAN_KIND_REASONING, reasoned, tokens);
    AddSpan(v1::SPAN_KIND_ANSWER, answered, tokens);
  }
  return events;
}

v1::JournalEnd EndOf(const v1::JobItem& item) {
  const v1::JobAnswer& answer = item.answer();
  if (item.state() != v1::JOB_ITEM_STATE_SUCCEEDED || answer.choices().empty()) {
    return EndOf(NoAnswer(item.index(), answer));
  }
  v1::JournalEnd end;
  v1::GenerateResponse::Finished* const finished = end.mutable_finished()->mutable_finished();
  finished->set_reason(answer.choices(0).finish_reason());
  finished->set_stop(answer.choices(0).stop());
  *finished->mutable_usage() = answer.usage();
  return end;
}

absl::Status NoAnswer(uint32_t index, const v1::JobAnswer& answer) {
  const std::string& why = answer.error_message().empty() ? answer.body() : answer.error_message();
  return absl::AbortedError(absl::StrCat("item ", index, " has ended without an answer: ", why));
}

}  // namespace whalepod
