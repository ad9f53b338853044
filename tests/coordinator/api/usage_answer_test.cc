#include "coordinator/api/usage_answer.h"

#include "coordinator/api/errors.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kDayMs = 86'400'000;

class UsageAnswerTest : public ::testing::Test {
 protected:
  void Add(const std::string& key, int64_t day) {
    now_ms_ = day * kDayMs;
    store_->Add(key, v1::USAGE_SOURCE_INTERACTIVE, v1::Usage());
  }
  absl::StatusOr<v1::GetUsageResponse> Ask(const std::string& from, const std::string& to,
                                           const std::string& caller = "", bool all = true) {
    v1::GetUsageRequest request;
    request.set_from_day(from);
    request.set_to_day(to);
    v1::GetUsageResponse response;
    const absl::Status status = AnswerUsage(*store_, caller, all, request, &response);
    if (!status.ok()) return status;
    return response;
  }
  static std::vector<std::string> Rows(const absl::StatusOr<v1::GetUsageResponse>& response) {
    EXPECT_TRUE(response.ok()) << response.status();
    std::vector<std::string> rows;
    if (!response.ok()) return rows;
    for (const v1::UsageRow& row : response->rows()) {
      rows.push_back(row.day() + " " + row.api_key());
    }
    return rows;
  }

  int64_t now_ms_ = 0;
  std::unique_ptr<UsageStore> store_ =
      UsageStore::Open({.now_ms = [this] { return now_ms_; }}).value();
};

TEST_F(UsageAnswerTest, TheLastThirtyDaysIfNothingIsSaid) {
  Add("a", 100);
  Add("a", 101);
  Add("a", 130);
  const auto answer = Ask("", "");
  EXPECT_THAT(Rows(answer), ElementsAre("1970-04-12 a", "1970-05-11 a"));
  EXPECT_EQ(answer->from_day(), "1970-04-12");
  EXPECT_EQ(answer->to_day(), "1970-05-11");
  EXPECT_THAT(Rows(Ask("", "1970-04-11")), ElementsAre("1970-04-11 a"));
  EXPECT_THAT(Rows(Ask("1970-04-13", "")), ElementsAre("1970-05-11 a"));
}

TEST_F(UsageAnswerTest, CallersSeeTheirOwn) {
  Add("alice", 0);
  Add("bob", 0);
  Add("", 0);
  EXPECT_THAT(Rows(Ask("", "", "bob", /*all=*/false)), ElementsAre("1970-01-01 bob"));
  EXPECT_THAT(Rows(Ask("", "", "carol", /*all=*/false)), IsEmpty());
  EXPECT_THAT(Rows(Ask("", "", "bob", /*all=*/true)),
              ElementsAre("1970-01-01 ", "1970-01-01 alice", "1970-01-01 bob"));
}

TEST_F(UsageAnswerTest, WrongDaysAreNamed) {
  const auto field = [this](const std::string& from, const std::string& to) {
    const absl::Status status = Ask(from, to).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return DetailOf(status).value_or(v1::ErrorDetail()).field();
  };
  EXPECT_EQ(field("yesterday", ""), "from_day");
  EXPECT_EQ(field("2026-11-31", ""), "from_day");
  EXPECT_EQ(field("", "2026-1-1"), "to_day");
  EXPECT_EQ(field("2026-11-02", "2026-11-01"), "from_day");
  EXPECT_EQ(field("2026-11-02", ""), "from_day") << "after today";
}

}  // namespace
}  // namespace whalepod
