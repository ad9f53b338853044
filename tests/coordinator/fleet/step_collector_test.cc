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

v1::StepResult WithLoad(uint32_t experts, std::vector<uint64_t> tokens,
                        std::vector<uint64_t> most) {
  v1::StepResult result = Result(5, 9);
  v1::ExpertLoad* load = result.mutable_expert_load();
  load->set_experts(experts);
  for (size_t i = 0; i < tokens.size(); ++i) load->add_layers(3 + i);
  load->mutable_tokens()->Assign(tokens.begin(), tokens.end());
  load->mutable_most()->Assign(most.begin(), most.end());
  return result;
}

TEST(StepCollector, TellsHowAStepWent) {
  StepCollector collector(Dp2Tp2());
  const auto at = [](int ms) { return kStart + std::chrono::milliseconds(ms); };
  collector.Expect(5, std::chrono::seconds(1), at(0), /*tokens=*/12);
  collector.Expect(6, std::chrono::seconds(1), at(1), 3);
  const auto answer = [&](int rank, uint64_t step, uint32_t micros, int ms) {
    v1::StepResult result = Result(step, 9);
    result.set_compute_micros(micros);
    return collector.Add(rank, std::move(result), at(ms)).value();
  };
  for (const int rank : {0, 1, 2}) EXPECT_FALSE(answer(rank, 5, 100 + rank, 4).has_value());
  const auto first = answer(3, 5, 103, 10);
  EXPECT_EQ(first->tokens, 12u);
  EXPECT_EQ(first->duration, std::chrono::milliseconds(10));
  EXPECT_THAT(first->rank_micros, ElementsAre(100, 101, 102, 103));
  EXPECT_EQ(first->expert_load.layers_size(), 0);
  for (const int rank : {3, 2, 1}) EXPECT_FALSE(answer(rank, 6, 7, 12).has_value());
  // Sent at 1, but the oldest only since 10.
  EXPECT_EQ(answer(0, 6, 7, 17)->duration, std::chrono::milliseconds(7));
}

TEST(StepCollector, AddsExpertLoads) {
  StepCollector collector(Dp2Tp2());
  collector.Expect(5, std::chrono::seconds(1), kStart);
  ASSERT_TRUE(collector.Add(0, WithLoad(2, {10, 4}, {7, 4}), kStart).ok());
  ASSERT_TRUE(collector.Add(1, Result(5, 9), kStart).ok());  // shares rank 0's experts
  ASSERT_TRUE(collector.Add(2, WithLoad(3, {5, 6}, {5, 2}), kStart).ok());
  const auto outcome = collector.Add(3, Result(5, 9), kStart);
  ASSERT_TRUE(outcome.ok() && outcome->has_value());
  const v1::ExpertLoad& load = (*outcome)->expert_load;
  EXPECT_EQ(load.experts(), 5u);
  EXPECT_THAT(load.layers(), ElementsAre(3, 4));
  EXPECT_THAT(load.tokens(), ElementsAre(15, 10));
  EXPECT_THAT(load.most(), ElementsAre(7, 4));
}

TEST(StepCollector, MalformedExpertLoadsAreErrors) {
  v1::StepResult deep = WithLoad(2, {1}, {1});
  deep.mutable_expert_load()->set_layers(0, 1024);
  for (const v1::StepResult& bad : {WithLoad(2, {1, 2}, {1}), WithLoad(0, {1}, {1}), deep}) {
    StepCollector collector(Dp2Tp2());
    collector.Expect(5, std::chrono::seconds(1), kStart);
    const auto added = collector.Add(0, bad, kStart);
    EXPECT_EQ(added.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(added.status().message()), HasSubstr("expert load"));
  }
  StepCollector collector(Dp2Tp2());
  collector.Expect(5, std::chrono::seconds(1), kStart);
  ASSERT_TRUE(collector.Add(0, WithLoad(2, {1}, {1}), kStart).ok());
  EXPECT_THAT(std::string(collector.Add(2, WithLoad(2, {1, 2}, {1, 2}), kStart).status().message()),
              HasSubstr("other layers"));
}

}  // namespace
}  // namespace whalepod
