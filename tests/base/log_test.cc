#include "base/log.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using nlohmann::json;
using ::testing::MatchesRegex;

// What `log` writes, line by line.
template <typename Log>
std::vector<std::string> LinesOf(LogFormat format, const Log& log) {
  ::testing::internal::CaptureStderr();
  InitLogging("test", format);
  log();
  std::vector<std::string> lines =
      absl::StrSplit(::testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty());
  return lines;
}

// Of the one line that `log` writes.
template <typename Log>
json LineOf(const Log& log) {
  const std::vector<std::string> lines = LinesOf(LogFormat::kJson, log);
  EXPECT_EQ(lines.size(), 1u);
  json line = json::parse(lines.at(0), nullptr, false);
  EXPECT_TRUE(line.is_object()) << lines[0];
  return line;
}

TEST(Log, TextIsAsItWas) {
  const auto lines = LinesOf(LogFormat::kText, [] {
    const LogScope scope(LogField{"request_id", "r"});
    spdlog::info("hello {}", 3);
    spdlog::debug("unseen");
  });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], MatchesRegex("..:..:..\\.... I \\[test\\] hello 3"));
}

TEST(Log, JsonHasWhatIsKnown) {
  json line = LineOf([] { spdlog::warn("hello {}", 3); });
  EXPECT_THAT(line["time"].get<std::string>(), MatchesRegex("....-..-..T..:..:..\\....Z"));
  EXPECT_EQ(line["level"], "warning");
  EXPECT_EQ(line["process"], "test");
  EXPECT_EQ(line["message"], "hello 3");
  EXPECT_EQ(line.size(), 4u);
  SetLogEpoch(7);
  SetLogRank(0);
  SetLogStep(uint64_t{1} << 40);
  line = LineOf([] { spdlog::info("x"); });
  EXPECT_EQ(line["epoch"], 7);
  EXPECT_EQ(line["rank"], 0);
  EXPECT_EQ(line["step"], uint64_t{1} << 40);
}

TEST(Log, ScopesNest) {
  json line = LineOf([] {
    const LogScope outer(std::vector<LogField>{{"request_id", "a"}, {"n", int64_t{1}}});
    const LogScope inner(std::vector<LogField>{{"request_id", "b"}, {"ms", 1.5}});
    spdlog::info("x");
  });
  EXPECT_EQ(line["request_id"], "b");
  EXPECT_EQ(line["n"], 1);
  EXPECT_EQ(line["ms"], 1.5);
  line = LineOf([] { spdlog::info("x"); });
  EXPECT_FALSE(line.contains("request_id"));
  // Of this thread alone.
  line = LineOf([] {
    const LogScope scope(LogField{"request_id", "a"});
    std::thread([] { spdlog::info("x"); }).join();
  });
  EXPECT_FALSE(line.contains("request_id"));
}

TEST(Log, AnyBytesMakeOneValidLine) {
  const std::string hostile("\"}\n{\"level\":\"x\\\xff\xc3\x00\x1b end", 23);
  const json line = LineOf([&] {
    const LogScope scope(LogField{"request_id", absl::string_view(hostile)});
    spdlog::info("{}", hostile);
  });
  EXPECT_EQ(line["level"], "info");
  EXPECT_THAT(line["message"].get<std::string>(), ::testing::StartsWith("\"}\n{\"level\":\"x\\"));
  EXPECT_EQ(line["message"], line["request_id"]);
}

}  // namespace
}  // namespace whalepod
