#include "coordinator/text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Matches(absl::string_view pattern, absl::string_view text) {
  const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  Regex::Scratch scratch;
  std::vector<std::string> found;
  for (size_t at = 0; at < text.size();) {
    const absl::StatusOr<Regex::Match> match = regex->Find(text, at, scratch);
    EXPECT_TRUE(match.ok()) << match.status();
    if (match->begin < match->end) {
      found.emplace_back(text.substr(match->begin, match->end - match->begin));
    }
    at = match->end;
  }
  return found;
}

TEST(RegexTest, ClassesAreUnicodes) {
  EXPECT_THAT(Matches("\\p{N}{1,3}", "a1234\u0663\u0664b"), ElementsAre("123", "4\u0663\u0664"));
  EXPECT_THAT(Matches("\\s+", "a \u3000\u0085b\u180ec"), ElementsAre(" \u3000\u0085"))
      << "U+180E is no white space";
  EXPECT_THAT(Matches("\\S+", "a\u180e \u2028b"), ElementsAre("a\u180e", "b"));
  EXPECT_THAT(Matches("[^\\s\\p{L}]+", "a1 ?\u180eb"), ElementsAre("1", "?\u180e"));
  EXPECT_THAT(Matches("(?i:'s)", "'s'S'\u017f"), ElementsAre("'s", "'S", "'\u017f"));
}

TEST(RegexTest, WhatEnginesReadDifferentlyIsRefused) {
  const std::pair<const char*, const char*> cases[] = {
      {"\\w+", "the escape \\w"},     {"\\bx", "the escape \\b"},    {"\\h", "the escape \\h"},
      {"x\\", "a \\ at the end"},     {"^x", "the anchor ^"},        {"x$", "the anchor $"},
      {"[a[b]]", "class within"},     {"[a&&b]", "&& in a class"},   {"[\\S]", "the escape \\S"},
      {"[]a]", "] first in a class"}, {"[a", "a class that"},        {"(?<n>x)", "the group (?<"},
      {"(*UTF)x", "the group (*U"},   {"\\p{Han}", "the property"},  {"x{1,2}+", "+ after {}"},
      {"\\Kx", "the escape \\K"},     {"(x", "missing closing"},     {"x{3,1}", "out of order"},
      {"x*", "the empty string"},     {"(?=x)", "the empty string"}, {"\\p{L", "the property"},
  };
  for (const auto& [pattern, message] : cases) {
    const absl::Status status = Regex::Compile(pattern).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << pattern;
  }
}

TEST(RegexTest, RunawayMatchesEnd) {
  const absl::StatusOr<Regex> regex = Regex::Compile("(a|aa)+(b|c)");
  ASSERT_TRUE(regex.ok());
  Regex::Scratch scratch;
  const absl::Status status = regex->Find(std::string(200, 'a'), 0, scratch).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("limit"));
}

TEST(RegexTest, LiteralsAreLiteral) {
  const absl::StatusOr<Regex> regex = Regex::Literal("a.*\u00e9");
  ASSERT_TRUE(regex.ok());
  Regex::Scratch scratch;
  const absl::StatusOr<Regex::Match> match = regex->Find("axx\u00e9a.*\u00e9", 0, scratch);
  EXPECT_EQ(match->begin, 5u);
  EXPECT_EQ(match->end, 10u);
}

}  // namespace
}  // namespace whalepod
