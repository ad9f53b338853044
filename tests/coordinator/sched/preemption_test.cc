// What running out of memory, the prefix cache, priorities and deadlines do to a request.
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/simulation.h"
#include "tests/coordinator/sched/test_requests.h"

namespace whalepod {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

uint64_t Tokens(const Simulation& simulation, uint64_t id) {
  return simulation.requests().at(id).got.size();
}

TEST(Preemption, TheNewestGivesWayAndGoesOnUnchanged) {
  Simulation simulation(SmallConfig());  // 16 blocks of 4 tokens
  const uint64_t older = simulation.Submit(MakeRequest(16, 32, 1));
  const uint64_t newer = simulation.Submit(MakeRequest(16, 32, 2));
  while (simulation.scheduler().Stats().preemptions == 0) {
    simulation.Step();
    simulation.Commit();
    ASSERT_FALSE(HasFatalFailure());
  }
  const uint64_t had = Tokens(simulation, newer);
  EXPECT_GT(had, 8u);  // both ran until the memory was used up
  EXPECT_EQ(simulation.scheduler().Stats().waiting, 1u);
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(Tokens(simulation, older), 32u);
  EXPECT_EQ(Tokens(simulation, newer), 32u);
}

TEST(Preemption, OneThatFillsTheMemoryAloneIsNeverPreempted) {
  SchedulerConfig config = SmallConfig();
  config.group_blocks = {12};
  Simulation simulation(config);
  simulation.Submit(MakeRequest(16, 32, 1));
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(simulation.scheduler().Stats().preemptions, 0u);
}

TEST(Preemption, AnUrgentRequestTakesTheSlotOfAJob) {
  SchedulerConfig config = SmallConfig();
  config.max_num_seqs = 1;
  Simulation simulation(config);
  SchedulerRequest job = MakeRequest(6, 30, 1), urgent = MakeRequest(4, 5, 2);
  job.priority = 100;
  const uint64_t job_id = simulation.Submit(job);
  for (int i = 0; i < 5; ++i) {
    simulation.Step();
    simulation.Commit();
  }
  const uint64_t urgent_id = simulation.Submit(urgent);
  simulation.Step();
  simulation.Commit();
  EXPECT_EQ(Tokens(simulation, urgent_id), 1u);
  EXPECT_EQ(Tokens(simulation, job_id), 5u);
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(simulation.scheduler().Stats().preemptions, 1u);
}

TEST(Preemption, EqualPriorityWaits) {
  SchedulerConfig config = SmallConfig();
  config.max_num_seqs = 1;
  Simulation simulation(config);
  simulation.Submit(MakeRequest(4, 30, 1));
  simulation.Step();
  simulation.Submit(MakeRequest(4, 5, 2));
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(simulation.scheduler().Stats().preemptions, 0u);
}

TEST(Preemption, AJobThatHasWaitedLongEnoughIsLeftAlone) {
  SchedulerConfig config = SmallConfig();
  config.max_num_seqs = 1;
  config.ageing = milliseconds(10);
  Simulation simulation(config);
  SchedulerRequest job = MakeRequest(6, 30, 1);
  job.priority = 5;
  const uint64_t job_id = simulation.Submit(job);
  simulation.Step();
  simulation.Advance(milliseconds(51));  // more than its five points
  simulation.Submit(MakeRequest(4, 5, 2));
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(simulation.scheduler().Stats().preemptions, 0u);
  EXPECT_EQ(Tokens(simulation, job_id), 30u);
}

TEST(PrefixCache, ASecondRequestComputesOnlyWhatDiffers) {
  Simulation simulation(SmallConfig());
  simulation.Submit(MakeRequest(14, 3, 1));
  simulation.RunToEnd();
  EXPECT_EQ(simulation.scheduler().Stats().blocks_cached, 4u);  // 14 + 2 of 17 tokens
  SchedulerRequest again = MakeRequest(14, 3, 1);
  again.prompt.back() = 9;
  simulation.Submit(again);
  const v1::StepPlan step = simulation.scheduler().NextStep(TimePoint());
  ASSERT_EQ(step.new_sequences_size(), 1);
  EXPECT_EQ(step.new_sequences(0).computed(), 12u);
  EXPECT_EQ(step.prefill(0).tokens(), 2u);
  EXPECT_EQ(simulation.scheduler().Stats().prefix_hits, 12u);
  EXPECT_EQ(simulation.scheduler().Stats().prefix_queries, 28u);
}

TEST(PrefixCache, TheLastTokenIsAlwaysComputed) {
  Simulation simulation(SmallConfig());
  simulation.Submit(MakeRequest(12, 1, 1));
  simulation.RunToEnd();
  simulation.Submit(MakeRequest(12, 1, 1));
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(simulation.scheduler().Stats().prefix_hits, 8u);
}

TEST(PrefixCache, RequestsOfOneStepShareItsBlocks) {
  Simulation simulation(SmallConfig());
  simulation.Submit(MakeRequest(9, 2, 1));
  simulation.Submit(MakeRequest(9, 2, 1));
  const v1::StepPlan step = simulation.scheduler().NextStep(TimePoint());
  ASSERT_EQ(step.new_sequences_size(), 2);
  EXPECT_EQ(step.new_sequences(1).computed(), 8u);
  EXPECT_EQ(simulation.scheduler().Stats().blocks_owned, 4u);  // 2 shared, 1 each
}

TEST(PrefixCache, GeneratedTokensAreNoPrompt) {
  Simulation simulation(SmallConfig());
  const SchedulerRequest first = MakeRequest(4, 9, 1);
  const uint64_t id = simulation.Submit(first);
  simulation.RunToEnd();
  SchedulerRequest next = first;
  const std::vector<uint32_t> got = simulation.requests().at(id).got;
  next.prompt.insert(next.prompt.end(), got.begin(), got.end());
  simulation.Submit(next);
  simulation.RunToEnd();
  simulation.ExpectAllRight();
  EXPECT_EQ(simulation.scheduler().Stats().prefix_hits, 4u);
}

TEST(PrefixCache, PromptLogprobsAreComputed) {
  Simulation simulation(SmallConfig());
  SchedulerRequest request = MakeRequest(12, 1, 1);
  request.sampling.set_prompt_logprobs(0);
  simulation.Submit(request);
  simulation.RunToEnd();
  simulation.Submit(request);
  simulation.RunToEnd();
  EXPECT_EQ(simulation.scheduler().Stats().prefix_hits, 0u);
}

TEST(PrefixCache, RequestsGoWhereTheirPrefixIs) {
  SchedulerConfig config = SmallConfig();
  config.group_blocks = {16, 16};
  config.max_num_batched_tokens = 64;
  Simulation simulation(config);
  simulation.Submit(MakeRequest(2, 1, 7));
  simulation.Submit(MakeRequest(40, 1, 1));  // to the other group
  const v1::StepPlan first = simulation.scheduler().NextStep(TimePoint());
  ASSERT_EQ(first.new_sequences(1).dp_group(), 1u);
  simulation.Submit(MakeRequest(44, 1, 1));
  const v1::StepPlan second = simulation.scheduler().NextStep(TimePoint());
  ASSERT_EQ(second.new_sequences_size(), 1);
  EXPECT_EQ(second.new_sequences(0).dp_group(), 1u);
  EXPECT_EQ(second.new_sequences(0).computed(), 40u);
}

TEST(Deadlines, EachNamesWhatItMissed) {
  SchedulerConfig config = SmallConfig();
  config.max_num_seqs = 1;
  Simulation simulation(config);
  SchedulerRequest runs = MakeRequest(2, 30, 1), waits = MakeRequest(2, 4, 2),
                   slow = MakeRequest(2, 4, 3);
  runs.deadline = TimePoint() + milliseconds(300);
  waits.queue_deadline = TimePoint() + milliseconds(100);
  slow.first_token_deadline = TimePoint() + milliseconds(200);
  const uint64_t run_id = simulation.Submit(runs), wait_id = simulation.Submit(waits),
                 slow_id = simulation.Submit(slow);
  simulation.Step();
  simulation.Commit();
  const auto error = [&](uint64_t id) {
    return std::string(simulation.requests().at(id).error.message());
  };
  EXPECT_EQ(simulation.scheduler().NextDeadline(), waits.queue_deadline);
  simulation.Advance(milliseconds(100));
  EXPECT_THAT(error(wait_id), HasSubstr("its first turn"));
  EXPECT_EQ(error(slow_id), "");
  simulation.Advance(milliseconds(100));
  EXPECT_THAT(error(slow_id), HasSubstr("its first token"));
  EXPECT_EQ(error(run_id), "");
  simulation.Advance(milliseconds(100));
  EXPECT_THAT(error(run_id), HasSubstr("its end has passed, with 1 of 30"));
  // Gone from the ranks with the next step.
  EXPECT_EQ(simulation.scheduler().NextStep(simulation.now()).stopped_size(), 1);
  EXPECT_EQ(simulation.scheduler().Stats().blocks_owned, 0u);
}

TEST(Overload, TheQueueIsBoundedByTokensToo) {
  SchedulerConfig config = SmallConfig();
  config.max_waiting_tokens = 20;
  Simulation simulation(config);
  EXPECT_NE(simulation.Submit(MakeRequest(30, 4, 1)), 0u);  // alone it may be longer
  SchedulerRequest more = MakeRequest(2, 4, 2);
  const absl::Status full = simulation.scheduler().Submit(more).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(full.message(), HasSubstr("30 tokens wait, 2 more would pass the limit of 20"));
}

TEST(Audit, RanksThatHoldOtherThanTheyShouldAreFoundOut) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(ModelWorker::ConfigFor(SmallConfig()));
  ASSERT_TRUE(scheduler->Submit(MakeRequest(6, 3)).ok());
  const v1::StepPlan plan = scheduler->NextStep(TimePoint());
  auto results = worker.Run(plan).value();
  ++results[0].live_blocks;
  const absl::Status status = scheduler->Commit(plan.step(), results).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("1 sequences and 3 blocks, expected 1 and 2"));
  EXPECT_EQ(scheduler->Stats().audit_failures, 1u);
  EXPECT_EQ(scheduler->Stats().audits, 1u);
}

}  // namespace
}  // namespace whalepod
