#include "coordinator/usage/prices.h"

#include <cstdio>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Prices, CachedInputIsCheaperAndReasoningIsOutput) {
  v1::Usage usage;
  usage.set_prompt_tokens(1'000'000);
  usage.set_cached_tokens(400'000);
  usage.set_completion_tokens(2'000'000);
  usage.set_reasoning_tokens(1'500'000);
  usage.set_cost_dollars(77);
  EXPECT_DOUBLE_EQ(Prices().Of(usage), 0.4 * 0.14 + 0.6 * 0.55 + 2 * 2.19);
  EXPECT_DOUBLE_EQ((Prices{.cached_input = 1, .input = 10, .output = 100}.Of(usage)),
                   0.4 + 6 + 200);
  EXPECT_EQ(Prices().Of(v1::Usage()), 0);
}

TEST(Prices, OfAFile) {
  const auto prices = Prices::Parse(R"({"cached_input": 0, "input": 1, "output": 2.5})", "p");
  ASSERT_TRUE(prices.ok()) << prices.status();
  EXPECT_EQ(prices->cached_input, 0);
  EXPECT_EQ(prices->input, 1);
  EXPECT_EQ(prices->output, 2.5);

  const std::string path = ::testing::TempDir() + "/prices_test.json";
  std::ofstream(path) << R"({"cached_input": 1, "input": 2, "output": 3})";
  EXPECT_EQ(Prices::Read(path)->output, 3);
  std::ofstream(path) << R"({"cached_input": 1, "input": "2", "output": 3})";
  EXPECT_THAT(std::string(Prices::Read(path).status().message()),
              AllOf(HasSubstr(path), HasSubstr("input")));
  std::remove(path.c_str());
  EXPECT_EQ(Prices::Read(path).status().code(), absl::StatusCode::kNotFound);
}

TEST(Prices, WhatIsWrongIsNamed) {
  const auto error = [](const std::string& json) {
    const absl::Status status = Prices::Parse(json, "p.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr("p.json")) << json;
    return std::string(status.message());
  };
  EXPECT_THAT(error("{}"), HasSubstr("cached_input"));
  EXPECT_THAT(error(R"({"cached_input": 0, "input": 1})"), HasSubstr("output"));
  EXPECT_THAT(error(R"({"cached_input": 0, "input": -1, "output": 2})"), HasSubstr("input"));
  EXPECT_THAT(error(R"({"cached_input": 0, "input": 1, "output": 1e30})"), HasSubstr("output"));
  EXPECT_THAT(error(R"({"cached_input": 0, "input": null, "output": 2})"), HasSubstr("input"));
  EXPECT_THAT(error(R"({"cached_input": 0, "input": true, "output": 2})"), HasSubstr("input"));
  EXPECT_THAT(error(R"({"cached_input": 0, "input": 1, "output": 2, "reasoning": 3})"),
              HasSubstr("reasoning"));
  EXPECT_THAT(error(R"({"input": 1, "input": 1})"), HasSubstr("input"));
  error("[]");
  error("");
}

}  // namespace
}  // namespace whalepod
