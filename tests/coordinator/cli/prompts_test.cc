#include "coordinator/cli/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ParseTokenIdsTest, ListsOfNumbers) {
  EXPECT_THAT(*ParseTokenIds("1,2, 4294967295"), ElementsAre(1u, 2u, 4294967295u));
  for (const char* bad : {"", "1,,2", "1,-2", "1,x", "4294967296"}) {
    const absl::Status status = ParseTokenIds(bad).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr(bad));
  }
}

absl::StatusOr<std::vector<v1::GenerateRequest>> Read(const std::string& text) {
  std::istringstream in(text);
  return ReadPrompts(in, "p.jsonl");
}

TEST(ReadPromptsTest, OneALine) {
  const auto good = Read(
      "{\"prompt_token_ids\": [1, 2], \"answer\": \"not ours\"}\n\n{\"prompt\":\"h\"}\n"
      "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"assistant\","
      "\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}]}");
  ASSERT_TRUE(good.ok()) << good.status();
  ASSERT_EQ(good->size(), 3u);
  EXPECT_THAT((*good)[0].token_ids().ids(), ElementsAre(1u, 2u));
  EXPECT_EQ((*good)[1].text(), "h");
  const v1::Chat& chat = (*good)[2].chat();
  ASSERT_EQ(chat.messages_size(), 2);
  EXPECT_EQ(chat.messages(0).content(), "s");
  EXPECT_FALSE(chat.messages(1).has_content());
  EXPECT_EQ(chat.messages(1).tool_calls(0).name(), "f");
  EXPECT_EQ(chat.messages(1).tool_calls(0).type(), "function");
}

TEST(ReadPromptsTest, BadLinesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"{\"prompt_token_ids\":[1]}\n[]", "p.jsonl:2: "},
      {"{}", "p.jsonl:1: 0 of"},
      {"\n \n", "p.jsonl has no prompt"},
      {"{\"prompt\":\"a\",\"prompt\":\"b\"}", "p.jsonl:1: "},
      {"{\"prompt_token_ids\":1}", "\"prompt_token_ids\" is not an array: 1"},
      {"{\"prompt_token_ids\":[1.5]}", "token id 1.5"},
      {"{\"prompt_token_ids\":[-1]}", "token id -1"},
      {"{\"prompt_token_ids\":[4294967296]}", "token id 4294967296"},
      {"{\"prompt_token_ids\":[1],\"prompt\":\"x\"}", "2 of"},
      {"{\"prompt\":7}", "\"prompt\" is not a string: 7"},
      {"{\"messages\":{}}", "\"messages\" is not an array"},
      {"{\"messages\":[3]}", "\"messages[0]\" is not an object"},
      {"{\"messages\":[{\"content\":\"x\"}]}", "\"messages[0].role\" is not a string"},
      {"{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "\"messages[0].content\""},
      {"{\"messages\":[{\"role\":\"user\",\"tool_calls\":[{}]}]}",
       "\"messages[0].tool_calls[0].function\" is not an object"},
  };
  for (const auto& [text, message] : cases) {
    const absl::Status status = Read(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(ReadPromptsTest, DeepNestingAndUnreadableFilesAreErrors) {
  const std::string deep =
      "{\"prompt\":" + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_EQ(Read(deep).status().code(), absl::StatusCode::kInvalidArgument);
  std::ifstream folder("/tmp");
  EXPECT_EQ(ReadPrompts(folder, "/tmp").status().code(), absl::StatusCode::kDataLoss);
}

TEST(CheckUtf8Test, NamesTheByte) {
  EXPECT_TRUE(CheckUtf8("h\xC3\xA9").ok());
  EXPECT_THAT(std::string(CheckUtf8("a\xFF").message()), HasSubstr("byte 1"));
}

}  // namespace
}  // namespace whalepod
