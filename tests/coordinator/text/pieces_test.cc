#include "coordinator/text/pieces.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace whalepod {
namespace {

using ::testing::HasSubstr;

TEST(PieceTableTest, BytesOfVocabularyAndAddedTokens) {
  // "\u0120" stands for a space, "\u010a" for a newline, "\u00c3\u00a9" for the bytes of e-acute.
  const absl::StatusOr<PieceTable> table = PieceTable::Parse(
      R"({"model":{"vocab":{"a":0,"\u0120b":1,"\u010a":2,"\u00c3\u00a9":3,"\u2581x":4}},
          "added_tokens":[{"id":6,"content":"<think>","special":false},
                          {"id":0,"content":"<eos>","special":true}]})",
      "t.json");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->size(), 7);
  EXPECT_EQ(table->Piece(0), "") << "special, and in the vocabulary too";
  EXPECT_EQ(table->Piece(1), " b");
  EXPECT_EQ(table->Piece(2), "\n");
  EXPECT_EQ(table->Piece(3), "\xC3\xA9");
  EXPECT_EQ(table->Piece(4), "\xE2\x96\x81x") << "not in the byte alphabet: as it stands";
  EXPECT_EQ(table->Piece(5), "") << "a hole";
  EXPECT_EQ(table->Piece(6), "<think>");
  EXPECT_EQ(table->Piece(7), "");
  EXPECT_EQ(table->Piece(~0u), "");
}

TEST(PieceTableTest, BadFilesAreRefusedByName) {
  const char* texts[] = {
      "",
      "[]",
      R"({"model":{}})",
      R"({"model":{"vocab":{"a":-1}}})",
      R"({"model":{"vocab":{"a":99999999999}}})",
      R"({"model":{"vocab":{"a":"1"}}})",
      R"({"model":{"vocab":{}},"added_tokens":{}})",
      R"({"model":{"vocab":{}},"added_tokens":[{"id":1}]})",
  };
  for (const char* text : texts) {
    const absl::Status status = PieceTable::Parse(text, "t.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("t.json")) << text;
  }
  EXPECT_EQ(PieceTable::Load("/nowhere/tokenizer.json").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(PieceTableTest, BundledTokenizer) {
  const absl::StatusOr<PieceTable> table =
      PieceTable::Load(WHALEPOD_SOURCE_DIR "/deploy/models/r1-draft/tokenizer.json");
  ASSERT_TRUE(table.ok()) << table.status();
  const uint32_t prompt[] = {0,   494, 340, 280, 223, 19, 20,  21,  24, 393,
                             223, 20,  19,  27,  27,  33, 495, 489, 201};
  std::string text;
  for (const uint32_t id : prompt) text += table->Piece(id);
  EXPECT_THAT(text, HasSubstr("What is 1236 plus 2199?"));
  EXPECT_THAT(text, ::testing::EndsWith("<think>\n"));
}

TEST(Utf8AssemblerTest, HoldsBackHalfCharacters) {
  const std::string text = "a\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x90\xB3z";  // of 1, 2, 3, 4, 1 bytes
  for (size_t step = 1; step <= text.size(); ++step) {
    Utf8Assembler assembler;
    std::string shown;
    for (size_t i = 0; i < text.size(); i += step) {
      const std::string more = assembler.Add(text.substr(i, step));
      ASSERT_TRUE(more.empty() || (more[0] & 0xC0) != 0x80);
      shown += more;
    }
    EXPECT_EQ(shown, text);
    EXPECT_EQ(assembler.Finish(), "");
  }
}

TEST(Utf8AssemblerTest, WhatCannotBeTextIsReplaced) {
  const std::string bad = "\xEF\xBF\xBD";
  const std::pair<std::string, std::string> cases[] = {
      {"a\xFFz", "a" + bad + "z"},
      {"\x80", bad},
      {"\xC3z", bad + "z"},
      {"\xE4\xBDz", bad + "z"},
      {"\xC0\x80", bad + bad},            // overlong
      {"\xED\xA0\x80", bad + bad + bad},  // a surrogate
      {"\xF4\x90\x80\x80", bad + bad + bad + bad},
      {"\xE4\xBD", bad},  // ends unfinished
  };
  for (const auto& [bytes, expected] : cases) {
    Utf8Assembler at_once;
    const std::string first = at_once.Add(bytes);
    EXPECT_EQ(first + at_once.Finish(), expected);
    Utf8Assembler one_by_one;
    std::string shown;
    for (const char byte : bytes) shown += one_by_one.Add(std::string(1, byte));
    EXPECT_EQ(shown + one_by_one.Finish(), expected);
  }
}

TEST(SplitReasoningTest, AtTheEndTag) {
  EXPECT_EQ(SplitReasoning("just text").text, "just text");
  EXPECT_EQ(SplitReasoning("just text").reasoning, "");
  EXPECT_EQ(SplitReasoning("Let me see.\n</think>\n\nSo: 5").reasoning, "Let me see.\n");
  EXPECT_EQ(SplitReasoning("Let me see.\n</think>\n\nSo: 5").text, "\n\nSo: 5");
  EXPECT_EQ(SplitReasoning("<think>\nhm</think>5").reasoning, "\nhm");
}

}  // namespace
}  // namespace whalepod
