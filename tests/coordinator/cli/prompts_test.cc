#include "coordinator/cli/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

absl::StatusOr<std::vector<std::vector<uint32_t>>> Read(const std::string& text) {
  std::istringstream in(text);
  return ReadPrompts(in, "p.jsonl");
}

TEST(ReadPromptsTest, OneALine) {
  const auto prompts = Read("{\"prompt_token_ids\": [1, 2]}\n\n{\"prompt_token_ids\":[3]}");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_THAT(*prompts, ElementsAre(ElementsAre(1u, 2u), ElementsAre(3u)));
}

TEST(ReadPromptsTest, BadLinesAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"{\"prompt_token_ids\":[1]}\n[]", "p.jsonl:2: not a JSON object"},
      {"{}", "p.jsonl:1: \"prompt_token_ids\" is not an array"},
      {"{\"prompt_token_ids\":[1.5]}", "token id 1.5"},
      {"{\"prompt_token_ids\":[-1]}", "token id -1"},
      {"{\"prompt_token_ids\":[4294967296]}", "token id 4294967296"},
      {"{\"prompt_token_ids\":[1],\"x\":2}", "unknown key \"x\""},
  };
  for (const auto& [text, message] : cases) {
    const absl::Status status = Read(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(ReadPromptsTest, TextNeedsATokenizer) {
  for (const char* text : {"{\"messages\":[]}", "{\"prompt\":\"hi\"}"}) {
    EXPECT_EQ(Read(text).status().code(), absl::StatusCode::kFailedPrecondition) << text;
  }
}

}  // namespace
}  // namespace whalepod
