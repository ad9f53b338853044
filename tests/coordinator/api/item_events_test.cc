#include "coordinator/api/item_events.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "coordinator/api/resumable_stream.h"

namespace whalepod {
namespace {

v1::GenerateResponse Token(uint32_t id, const std::string& reasoning, const std::string& text) {
  v1::GenerateResponse message;
  v1::GenerateResponse::Tokens* const tokens = message.mutable_tokens();
  tokens->add_tokens()->set_token_id(id);
  const auto add = [tokens](v1::SpanKind kind, const std::string& text) {
    if (text.empty()) return;
    v1::TextSpan* const span = tokens->add_spans();
    span->set_kind(kind);
    span->set_text(text);
  };
  add(v1::SPAN_KIND_REASONING, reasoning);
  add(v1::SPAN_KIND_ANSWER, text);
  return message;
}

TEST(ItemEvents, WhatIsToldAgainIsWhatWasTold) {
  std::vector<v1::GenerateResponse> messages(1);
  messages[0].mutable_started()->set_request_id("r");
  messages[0].mutable_started()->set_seed(7);
  messages.push_back(Token(4, "caf\u00e9", ""));
  messages.push_back(Token(5, "", ""));
  messages.push_back(Token(6, " end", "\n"));
  messages.push_back(Token(7, "", "answer"));
  v1::GenerateResponse finished;
  finished.mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
  finished.mutable_finished()->set_stop("x");
  finished.mutable_finished()->mutable_usage()->set_completion_tokens(4);

  v1::JobItem item;
  item.set_state(v1::JOB_ITEM_STATE_SUCCEEDED);
  v1::JobAnswer& answer = *item.mutable_answer();
  answer.add_choices();
  for (const v1::GenerateResponse& message : messages) {
    v1::GenerateResponse whole = message;
    if (whole.has_tokens()) {
      v1::GeneratedToken& token = *whole.mutable_tokens()->mutable_tokens(0);
      token.set_logprob(-1);
      token.set_piece("p");
    }
    EXPECT_EQ(ForWatcher(whole).DebugString(), message.DebugString());
    Gather(whole, &answer);
  }
  Gather(finished, &answer);
  EXPECT_EQ(answer.request_id(), "r");
  EXPECT_EQ(answer.choices(0).reasoning(), "caf\u00e9 end");
  const v1::JournalEvents events = EventsOf(answer, 0);
  ASSERT_EQ(events.events_size(), static_cast<int>(messages.size()));
  for (int i = 0; i < events.events_size(); ++i) {
    EXPECT_EQ(events.events(i).DebugString(), messages[static_cast<size_t>(i)].DebugString());
  }
  for (uint32_t first = 0; first < 8; ++first) {
    const v1::JournalEvents rest = EventsOf(answer, first);
    ASSERT_EQ(rest.events_size(), std::max(0, events.events_size() - static_cast<int>(first)));
    for (int i = 0; i < rest.events_size(); ++i) {
      EXPECT_EQ(rest.events(i).DebugString(),
                events.events(i + static_cast<int>(first)).DebugString());
    }
  }
  EXPECT_EQ(EndOf(item).finished().DebugString(), finished.DebugString());

  // As an earlier version wrote it.
  answer.mutable_choices(0)->clear_text_bytes();
  const v1::JournalEvents old = EventsOf(answer, 0);
  EXPECT_EQ(old.events(1).tokens().spans_size(), 0);
  EXPECT_EQ(old.events(4).tokens().spans(0).text(), "caf\u00e9 end");
  EXPECT_EQ(old.events(4).tokens().spans(1).text(), "\nanswer");
}

TEST(ItemEvents, AnItemWithoutAnAnswerSaysWhy) {
  v1::JobItem item;
  item.set_index(3);
  item.set_state(v1::JOB_ITEM_STATE_EXPIRED);
  item.mutable_answer()->set_error_message("too late");
  const v1::JournalEnd end = EndOf(item);
  EXPECT_EQ(end.code(), static_cast<int>(absl::StatusCode::kAborted));
  EXPECT_EQ(end.message(), "item 3 has ended without an answer: too late");
}

}  // namespace
}  // namespace whalepod
