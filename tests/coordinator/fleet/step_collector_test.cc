#include "coordinator/fleet/step_collector.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::Layout Dp2Tp2() {
  v1::Layout layout;
  layout.set_replicas(1);
  layout.set_pp(1);
  layout.set_dp(2);
  layout.set_tp(2);
  return layout;
}

v1::StepResult Result(uint64_t step, uint64_t digest, int tokens = 0) {
  v1::StepResult result;
  result.set_step(step);
  result.set_digest(digest);
  for (int i = 0; i < tokens; ++i) result.add_tokens()->set_slot(i);
  return result;
}

constexpr TimePoint kStart{};

TEST(StepCollector, CollectsAllRanksInAnyOrder) {
  StepCollector collector(Dp2Tp2());
  collector.Expect(5, std::chrono::seconds(1), kStart);
  collector.Expect(6, std::chrono::seconds(1), kStart);
  EXPECT_FALSE(collector.Add(3, Result(5, 9), kStart)->has_value());
  EXPECT_FALSE(collector.Add(3, Result(6, 8), kStart)->has_value());
  EXPECT_FALSE(collector.Add(0, Result(5, 1, 2), kStart)->has_value());
  EXPECT_FALSE(collector.Add(1, Result(5, 1), kStart)->has_value());
  auto outcome = collector.Add(2, Result(5, 9, 1), kStart);
  ASSERT_TRUE(outcome.ok() && outcome->has_value());
  EXPECT_EQ((*outcome)->step, 5u);
  EXPECT_EQ((*outcome)->groups[0].tokens.size(), 2u);
  EXPECT_EQ((*outcome)->groups[1].tokens.size(), 1u);
  EXPECT_EQ(collector.OldestStep(), 6u);
}

TEST(StepCollector, DigestsOfAGroupMustAgree) {
  StepCollector collector(Dp2Tp2());
  collector.Expect(1, std::chrono::seconds(1), kStart);
  EXPECT_TRUE(collector.Add(0, Result(1, 0xabc), kStart).ok());
  EXPECT_TRUE(collector.Add(2, Result(1, 0xdef), kStart).ok());  // another group
  const absl::Status status = collector.Add(1, Result(1, 0xabd), kStart).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("rank 0 has digest 0000000000000abc"));
  EXPECT_THAT(status.message(), HasSubstr("rank 1 has 0000000000000abd"));
}

TEST(StepCollector, AnswersComeInOrder) {
  StepCollector collector(Dp2Tp2());
  collector.Expect(1, std::chrono::seconds(1), kStart);
  collector.Expect(2, std::chrono::seconds(1), kStart);
  EXPECT_THAT(collector.Add(0, Result(2, 1), kStart).status().message(),
              HasSubstr("answered step 2, expected step 1"));
  EXPECT_TRUE(collector.Add(1, Result(1, 1), kStart).ok());
  EXPECT_TRUE(collector.Add(1, Result(2, 1), kStart).ok());
  EXPECT_THAT(collector.Add(1, Result(3, 1), kStart).status().message(),
              HasSubstr("expected none"));
}

TEST(StepCollector, LateOnesAreNamed) {
  StepCollector collector(Dp2Tp2());
  EXPECT_THAT(collector.Late(kStart), IsEmpty());
  collector.Expect(1, std::chrono::seconds(1), kStart);
  collector.Expect(2, std::chrono::seconds(1), kStart);
  for (int rank : {0, 1, 3}) ASSERT_TRUE(collector.Add(rank, Result(1, 1), kStart).ok());
  EXPECT_THAT(collector.Late(kStart + std::chrono::milliseconds(999)), IsEmpty());
  EXPECT_THAT(collector.Late(kStart + std::chrono::seconds(1)), ElementsAre(2));
  // Step 2's time runs from when step 1 is done.
  const TimePoint later = kStart + std::chrono::milliseconds(900);
  ASSERT_TRUE(collector.Add(2, Result(1, 1), later).ok());
  EXPECT_THAT(collector.Late(kStart + std::chrono::seconds(1)), IsEmpty());
  EXPECT_EQ(collector.Late(later + std::chrono::seconds(1)).size(), 4u);
}

TEST(StepCollector, APauseDoesNotCount) {
  StepCollector collector(Dp2Tp2());
  collector.Expect(1, std::chrono::seconds(1), kStart);
  const TimePoint back = kStart + std::chrono::hours(1);
  collector.Forgive(std::chrono::hours(1), back);
  EXPECT_THAT(collector.Late(back + std::chrono::milliseconds(999)), IsEmpty());
  EXPECT_EQ(collector.Late(back + std::chrono::seconds(1)).size(), 4u);
}

}  // namespace
}  // namespace whalepod
