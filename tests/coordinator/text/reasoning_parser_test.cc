#include "coordinator/text/reasoning_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/text/test_tokenizer.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Json = nlohmann::json;

constexpr SpanKind kReasoning = SpanKind::kReasoning;
constexpr SpanKind kAnswer = SpanKind::kAnswer;

// With tags as tokens, or without.
std::shared_ptr<const Tokenizer> Make(bool tag_tokens) {
  Json json = TestTokenizerJson();
  if (!tag_tokens) {
    json["added_tokens"][1]["content"] = "<a>";
    json["added_tokens"][2]["content"] = "<b>";
  }
  TokenizerConfig config;
  config.eos_token = "<eos>";
  return *Tokenizer::FromText(json.dump(), config);
}

std::vector<TextSpan> Parse(const std::shared_ptr<const Tokenizer>& tokenizer, ReasoningStart start,
                            const std::vector<uint32_t>& ids) {
  ReasoningParser parser(tokenizer, start, SpecialTokens::kSkip);
  std::vector<TextSpan> spans;
  for (const uint32_t id : ids) {
    std::vector<TextSpan> more;
    parser.Add(id, more);
    for (const TextSpan& span : more) {
      EXPECT_FALSE(span.text.empty());
      if (spans.empty() || spans.back().kind != span.kind) spans.push_back({.kind = span.kind});
      spans.back().text += span.text;
    }
  }
  parser.Finish(spans);
  return spans;
}

std::vector<TextSpan> ParseText(bool tag_tokens, ReasoningStart start, const std::string& text) {
  const auto tokenizer = Make(tag_tokens);
  return Parse(tokenizer, start, *tokenizer->Encode(text));
}

TEST(ReasoningParserTest, SplitsAtTagsWhetherTokensOrText) {
  for (const bool tokens : {true, false}) {
    SCOPED_TRACE(tokens);
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kOpen, "hm\n</think>\n\n5<eos>"),
                ElementsAre(TextSpan{kReasoning, "hm\n"}, TextSpan{kAnswer, "\n\n5"}));
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kClosed, " \n<think>\nhm</think>5"),
                ElementsAre(TextSpan{kReasoning, "\nhm"}, TextSpan{kAnswer, "5"}));
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kClosed, " the<think>hm</think>5"),
                ElementsAre(TextSpan{kAnswer, " the<think>hm</think>5"}));
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kOpen, "a<think>b</think>c</think>d"),
                ElementsAre(TextSpan{kReasoning, "a<think>b"}, TextSpan{kAnswer, "c</think>d"}));
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kOpen, "</think>"), IsEmpty());
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kOpen, "unfinished"),
                ElementsAre(TextSpan{kReasoning, "unfinished"}));
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kClosed, std::string(200, ' ')),
                ElementsAre(TextSpan{kAnswer, std::string(200, ' ')}));
  }
}

TEST(ReasoningParserTest, PartsOfTagsComeOutInTheEnd) {
  for (const bool tokens : {true, false}) {
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kOpen, "a</thin</thi"),
                ElementsAre(TextSpan{kReasoning, "a</thin</thi"}));
    EXPECT_THAT(ParseText(tokens, ReasoningStart::kClosed, "<thi"),
                ElementsAre(TextSpan{kAnswer, "<thi"}));
  }
  EXPECT_THAT(ParseText(false, ReasoningStart::kOpen, "a<</think>b"),
              ElementsAre(TextSpan{kReasoning, "a<"}, TextSpan{kAnswer, "b"}));
}

TEST(ReasoningParserTest, TextIsNoTagWhereTagsAreTokens) {
  const auto tokenizer = Make(true);
  const std::vector<uint32_t> spelled =
      *tokenizer->EncodeParts({{PromptPart::Kind::kText, "a</think>b"}});
  EXPECT_THAT(Parse(tokenizer, ReasoningStart::kOpen, spelled),
              ElementsAre(TextSpan{kReasoning, "a</think>b"}));
}

TEST(ReasoningParserTest, HoldsBackOnlyWhatItMust) {
  const auto tokenizer = Make(false);
  ReasoningParser parser(tokenizer, ReasoningStart::kOpen, SpecialTokens::kSkip);
  const auto add = [&parser](uint32_t id) {
    std::vector<TextSpan> spans;
    parser.Add(id, spans);
    return spans.empty() ? std::string() : spans[0].text;
  };
  EXPECT_EQ(add('a'), "a");
  EXPECT_EQ(add('<'), "");
  EXPECT_EQ(add('/'), "");
  EXPECT_EQ(add('x'), "</x");
  EXPECT_TRUE(parser.in_reasoning());
}

TEST(ReasoningParserTest, HalfACharacterBeforeATag) {
  const auto tokenizer = Make(true);
  EXPECT_THAT(Parse(tokenizer, ReasoningStart::kOpen, {0xE4, 260, 'b'}),
              ElementsAre(TextSpan{kReasoning, "\uFFFD"}, TextSpan{kAnswer, "b"}));
  EXPECT_THAT(Parse(tokenizer, ReasoningStart::kClosed, {0xE4, 259, 'b'}),
              ElementsAre(TextSpan{kAnswer, "\uFFFD<think>b"}));
}

TEST(ReasoningParserTest, WhatThePromptLeavesOpen) {
  for (const bool tokens : {true, false}) {
    const auto tokenizer = Make(tokens);
    const auto open = [&tokenizer](const char* text) {
      return LeavesReasoningOpen(*tokenizer, *tokenizer->Encode(text));
    };
    EXPECT_TRUE(open("the<think>\n"));
    EXPECT_TRUE(open("<think>"));
    EXPECT_FALSE(open(""));
    EXPECT_FALSE(open("the"));
    EXPECT_FALSE(open("<think>a</think>b"));
    EXPECT_FALSE(open("<think>a<eos>b"));
  }
}

}  // namespace
}  // namespace whalepod
