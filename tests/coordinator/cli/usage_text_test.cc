#include "coordinator/cli/usage_text.h"

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::json;

void AddRow(const std::string& day, const std::string& key, v1::UsageSource source, uint64_t count,
            v1::GetUsageResponse* usage) {
  v1::UsageRow* row = usage->add_rows();
  row->set_day(day);
  row->set_api_key(key);
  row->set_source(source);
  row->set_requests(count);
  row->set_input_tokens(10 * count);
  row->set_cached_input_tokens(100 * count);
  row->set_output_tokens(1000 * count);
  row->set_reasoning_tokens(500 * count);
  row->set_cost_dollars(0.25 * static_cast<double>(count));
}

v1::GetUsageResponse Usage() {
  v1::GetUsageResponse usage;
  usage.set_from_day("2026-11-01");
  usage.set_to_day("2026-11-30");
  AddRow("2026-11-28", "alice", v1::USAGE_SOURCE_INTERACTIVE, 1, &usage);
  AddRow("2026-11-28", "alice", v1::USAGE_SOURCE_JOB, 2, &usage);
  AddRow("2026-11-28", "bob", v1::USAGE_SOURCE_INTERACTIVE, 4, &usage);
  AddRow("2026-11-29", "alice", v1::USAGE_SOURCE_INTERACTIVE, 8, &usage);
  return usage;
}

TEST(UsageText, ByKeyAndDay) {
  EXPECT_EQ(UsageText(Usage(), UsageBy::kBoth),
            R"(usage from 2026-11-01 to 2026-11-30 (UTC)
day         key    source       requests  cached input  input  output  reasoning       cost
2026-11-28  alice  interactive         1           100     10   1,000        500  $0.250000
2026-11-28  alice  job                 2           200     20   2,000      1,000  $0.500000
2026-11-28  bob    interactive         4           400     40   4,000      2,000  $1.000000
2026-11-29  alice  interactive         8           800     80   8,000      4,000  $2.000000
total                                 15         1,500    150  15,000      7,500  $3.750000
)");
}

TEST(UsageText, SummedUpByOne) {
  EXPECT_EQ(UsageText(Usage(), UsageBy::kKey),
            R"(usage from 2026-11-01 to 2026-11-30 (UTC)
key    requests  cached input  input  output  reasoning       cost
alice        11         1,100    110  11,000      5,500  $2.750000
bob           4           400     40   4,000      2,000  $1.000000
total        15         1,500    150  15,000      7,500  $3.750000
)");
  EXPECT_EQ(UsageText(Usage(), UsageBy::kDay),
            R"(usage from 2026-11-01 to 2026-11-30 (UTC)
day         requests  cached input  input  output  reasoning       cost
2026-11-28         7           700     70   7,000      3,500  $1.750000
2026-11-29         8           800     80   8,000      4,000  $2.000000
total             15         1,500    150  15,000      7,500  $3.750000
)");
}

TEST(UsageText, SaysWhatIsNotKept) {
  v1::GetUsageResponse usage;
  usage.set_from_day("2026-11-01");
  usage.set_to_day("2026-11-30");
  usage.set_in_memory(true);
  AddRow("2026-11-29", "", v1::USAGE_SOURCE_INTERACTIVE, 1, &usage);
  const std::string text = UsageText(usage, UsageBy::kKey);
  EXPECT_NE(text.find("it has no --state-dir\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\n-  "), std::string::npos) << text;
}

TEST(UsageText, AsJson) {
  const Json both = Json::parse(UsageJson(Usage(), UsageBy::kBoth));
  EXPECT_EQ(both["from_day"], "2026-11-01");
  EXPECT_EQ(both["to_day"], "2026-11-30");
  EXPECT_EQ(both["in_memory"], false);
  ASSERT_EQ(both["rows"].size(), 4u);
  EXPECT_EQ(both["rows"][1], Json::parse(R"({"day": "2026-11-28", "api_key": "alice",
      "source": "job", "requests": 2, "input_tokens": 20, "cached_input_tokens": 200,
      "output_tokens": 2000, "reasoning_tokens": 1000, "cost_dollars": 0.5})"));
  EXPECT_EQ(both["total"], Json::parse(R"({"requests": 15, "input_tokens": 150,
      "cached_input_tokens": 1500, "output_tokens": 15000, "reasoning_tokens": 7500,
      "cost_dollars": 3.75})"));
  const Json by_key = Json::parse(UsageJson(Usage(), UsageBy::kKey));
  ASSERT_EQ(by_key["rows"].size(), 2u);
  EXPECT_EQ(by_key["rows"][0]["api_key"], "alice");
  EXPECT_FALSE(by_key["rows"][0].contains("day"));
  EXPECT_FALSE(by_key["rows"][0].contains("source"));
  EXPECT_EQ(by_key["total"], both["total"]);
}

}  // namespace
}  // namespace whalepod
