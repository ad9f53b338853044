#include "coordinator/sched/scheduler.h"

#include <deque>
#include <map>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/model_worker.h"
#include "tests/coordinator/sched/test_requests.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

TEST(Scheduler, OneRequestFromPromptToLastToken) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(ModelWorker::ConfigFor(SmallConfig()));
  const uint64_t id = scheduler->Submit(MakeRequest(6, 3)).value();

  v1::StepPlan first = scheduler->NextStep(TimePoint());
  ASSERT_EQ(first.new_sequences_size(), 1);
  EXPECT_EQ(first.new_sequences(0).sequence(), id);
  ASSERT_EQ(first.granted_size(), 1);
  EXPECT_EQ(first.granted(0).blocks_size(), 2);  // 6 tokens in blocks of 4
  ASSERT_EQ(first.prefill_size(), 1);
  EXPECT_EQ(first.prefill(0).tokens(), 6u);
  EXPECT_EQ(first.group_tokens(0), 6u);
  // Made before the first one's result: the decode row needs no word of its own.
  v1::StepPlan second = scheduler->NextStep(TimePoint());
  EXPECT_EQ(second.group_tokens(0), 1u);
  EXPECT_EQ(second.new_sequences_size() + second.prefill_size() + second.granted_size(), 0);
  v1::StepPlan third = scheduler->NextStep(TimePoint());
  v1::StepPlan fourth = scheduler->NextStep(TimePoint());  // all three tokens are sampled by now
  EXPECT_EQ(third.group_tokens(0), 1u);
  ASSERT_EQ(fourth.stopped_size(), 1);
  EXPECT_EQ(fourth.group_tokens(0), 0u);
  EXPECT_FALSE(scheduler->HasWork());

  std::vector<uint32_t> tokens;
  for (const v1::StepPlan* plan : {&first, &second, &third, &fourth}) {
    auto sampled = worker.Run(*plan);
    ASSERT_TRUE(sampled.ok()) << sampled.status();
    auto events = scheduler->Commit(plan->step(), *sampled);
    ASSERT_TRUE(events.ok()) << events.status();
    for (const SequenceEvent& event : *events) {
      tokens.push_back(event.token.token_id());
      EXPECT_EQ(event.finished, tokens.size() == 3);
      if (event.finished) {
        EXPECT_EQ(event.reason, v1::FINISH_REASON_LENGTH);
      }
    }
  }
  EXPECT_EQ(tokens.size(), 3u);
  EXPECT_EQ(scheduler->Stats().blocks_owned, 0u);
  EXPECT_TRUE(scheduler->Audit().ok()) << scheduler->Audit();
}

TEST(Scheduler, GoesOnWithWhatAnEarlierDeploymentGenerated) {
  auto scheduler = Make(SmallConfig());
  SchedulerRequest request = MakeRequest(6, 3);
  request.generated = {7, 8, 9};
  const absl::Status status = scheduler->Submit(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("nothing is left"));
  request.generated = {7, 8};
  ASSERT_TRUE(scheduler->Submit(request).ok());
  const v1::StepPlan plan = scheduler->NextStep(TimePoint());
  ASSERT_EQ(plan.new_sequences_size(), 1);
  // Computed in one prefill, in the form that generated tokens have.
  EXPECT_EQ(plan.new_sequences(0).tokens_size(), 8);
  EXPECT_EQ(plan.new_sequences(0).prompt_len(), 6u);
  EXPECT_EQ(plan.prefill(0).tokens(), 8u);
  v1::SampledToken token;
  token.set_sequence(1);
  token.set_index(2);
  token.set_token_id(5);
  const auto events =
      scheduler->Commit(plan.step(), {{.tokens = {token}, .live_sequences = 1, .live_blocks = 2}});
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_EQ(events->size(), 1u);
  EXPECT_EQ(events->front().reason, v1::FINISH_REASON_LENGTH);
}

TEST(Scheduler, EndTokenStopsAndOverrunIsIgnored) {
  SchedulerConfig config = SmallConfig();
  SchedulerRequest request = MakeRequest(2, 20);
  request.sampling.set_ignore_eos(false);
  config.eos_token_ids = {ModelWorker::TokenAt(request.prompt, 1, 1, 1000)};
  auto scheduler = Make(config);
  ModelWorker worker(ModelWorker::ConfigFor(config));
  ASSERT_TRUE(scheduler->Submit(request).ok());
  std::deque<v1::StepPlan> queue = {scheduler->NextStep(TimePoint()),
                                    scheduler->NextStep(TimePoint())};
  int tokens = 0;
  bool finished = false;
  while (!queue.empty()) {
    auto sampled = worker.Run(queue.front());
    ASSERT_TRUE(sampled.ok()) << sampled.status();
    auto events = scheduler->Commit(queue.front().step(), *sampled);
    ASSERT_TRUE(events.ok());
    queue.pop_front();
    for (const SequenceEvent& event : *events) {
      ++tokens;
      EXPECT_FALSE(finished);
      finished = event.finished;
      if (finished) {
        EXPECT_EQ(event.reason, v1::FINISH_REASON_STOP);
      }
    }
    if (scheduler->HasWork()) queue.push_back(scheduler->NextStep(TimePoint()));
  }
  EXPECT_TRUE(finished);
  EXPECT_EQ(tokens, 2);
  EXPECT_EQ(scheduler->Stats().overrun_tokens, 1u);
  EXPECT_EQ(worker.live(), 0u);
}

TEST(Scheduler, FailedTokenEndsItsRequestOnly) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(ModelWorker::ConfigFor(SmallConfig()));
  const uint64_t bad = scheduler->Submit(MakeRequest(2, 4, 1)).value();
  const uint64_t good = scheduler->Submit(MakeRequest(2, 4, 2)).value();
  worker.FailToken(MakeRequest(2, 4, 1).prompt, 1);
  std::map<uint64_t, int> tokens;
  absl::Status error;
  while (scheduler->HasWork()) {
    const v1::StepPlan plan = scheduler->NextStep(TimePoint());
    auto events = scheduler->Commit(plan.step(), worker.Run(plan).value());
    ASSERT_TRUE(events.ok());
    for (const SequenceEvent& event : *events) {
      if (event.has_token) ++tokens[event.sequence];
      if (!event.error.ok()) {
        EXPECT_EQ(event.sequence, bad);
        error = event.error;
      }
    }
  }
  EXPECT_EQ(error.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(error.message(), HasSubstr("logits are NaN"));
  EXPECT_EQ(tokens[bad], 1);
  EXPECT_EQ(tokens[good], 4);
}

TEST(Scheduler, RefusesWhatCanNeverRunWithBothNumbers) {
  auto scheduler = Make(SmallConfig());
  const absl::Status context = scheduler->Submit(MakeRequest(40, 9)).status();
  EXPECT_EQ(context.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(context.message(), HasSubstr("49 tokens"));
  EXPECT_THAT(context.message(), HasSubstr("holds 48"));
  SchedulerConfig config = SmallConfig();
  config.group_blocks = {5, 4};
  const absl::Status blocks = Make(config)->Submit(MakeRequest(18, 3)).status();
  EXPECT_EQ(blocks.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(blocks.message(), HasSubstr("6 KV blocks"));
  EXPECT_THAT(blocks.message(), HasSubstr("there are 5 blocks"));
  EXPECT_TRUE(Make(config)->Submit(MakeRequest(17, 3)).ok());
}

TEST(Scheduler, RefusesLimitsThatCouldStarve) {
  SchedulerConfig config = SmallConfig();
  config.min_chunk = 512;
  config.max_model_len = 4096;
  config.max_num_batched_tokens = 514;
  const absl::Status status = Scheduler::Create(config).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("is 514"));
  EXPECT_THAT(status.message(), HasSubstr("at least 515"));
}

TEST(Scheduler, BoundedQueue) {
  SchedulerConfig config = SmallConfig();
  config.max_waiting = 2;
  auto scheduler = Make(config);
  EXPECT_TRUE(scheduler->Submit(MakeRequest(2, 2)).ok());
  EXPECT_TRUE(scheduler->Submit(MakeRequest(2, 2)).ok());
  EXPECT_EQ(scheduler->Submit(MakeRequest(2, 2)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(Scheduler, CancelFreesWithTheNextStep) {
  auto scheduler = Make(SmallConfig());
  const uint64_t id = scheduler->Submit(MakeRequest(8, 20)).value();
  scheduler->NextStep(TimePoint());
  EXPECT_EQ(scheduler->Stats().blocks_owned, 2u);
  EXPECT_TRUE(scheduler->Cancel(id));
  EXPECT_FALSE(scheduler->Cancel(id));
  const v1::StepPlan next = scheduler->NextStep(TimePoint());
  EXPECT_EQ(next.stopped_size(), 1);
  EXPECT_EQ(scheduler->Stats().blocks_owned, 0u);
  EXPECT_FALSE(scheduler->HasWork());
}

TEST(Scheduler, LongPromptsRunInChunksBesideDecodes) {
  SchedulerConfig config = SmallConfig();
  config.min_chunk = 6;
  config.max_num_batched_tokens = 10;
  auto scheduler = Make(config);
  ASSERT_TRUE(scheduler->Submit(MakeRequest(1, 10, 1)).ok());
  ASSERT_TRUE(scheduler->Submit(MakeRequest(20, 2, 2)).ok());
  std::vector<uint32_t> chunks, totals;
  for (int i = 0; i < 3; ++i) {
    const v1::StepPlan plan = scheduler->NextStep(TimePoint());
    for (const v1::PrefillChunk& chunk : plan.prefill()) chunks.push_back(chunk.tokens());
    totals.push_back(plan.group_tokens(0));
  }
  EXPECT_THAT(chunks, ::testing::ElementsAre(1, 9, 9, 2));
  EXPECT_THAT(totals, ::testing::ElementsAre(10, 10, 3));
}

TEST(Scheduler, NobodyOvertakesTheFirstInTheQueue) {
  SchedulerConfig config = SmallConfig();  // 16 blocks of 4 tokens
  config.max_num_batched_tokens = 64;
  auto scheduler = Make(config);
  const uint64_t running = scheduler->Submit(MakeRequest(40, 8, 1)).value();
  const uint64_t large = scheduler->Submit(MakeRequest(30, 8, 2)).value();
  const uint64_t small = scheduler->Submit(MakeRequest(1, 1, 3)).value();
  const v1::StepPlan first = scheduler->NextStep(TimePoint());
  ASSERT_EQ(first.new_sequences_size(), 1);
  EXPECT_EQ(first.new_sequences(0).sequence(), running);
  EXPECT_EQ(scheduler->NextStep(TimePoint()).new_sequences_size(), 0);
  scheduler->Cancel(running);
  const v1::StepPlan next = scheduler->NextStep(TimePoint());
  ASSERT_EQ(next.new_sequences_size(), 2);
  EXPECT_EQ(next.new_sequences(0).sequence(), large);
  EXPECT_EQ(next.new_sequences(1).sequence(), small);
}

TEST(Scheduler, RequestsSpreadOverDpGroups) {
  SchedulerConfig config = SmallConfig();
  config.group_blocks = {16, 16};
  auto scheduler = Make(config);
  for (uint32_t i = 0; i < 4; ++i) ASSERT_TRUE(scheduler->Submit(MakeRequest(2, 4, i)).ok());
  const v1::StepPlan plan = scheduler->NextStep(TimePoint());
  EXPECT_THAT(plan.group_tokens(), ::testing::ElementsAre(4, 4));
}

TEST(Scheduler, ResultsThatDoNotFitAreRefused) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(ModelWorker::ConfigFor(SmallConfig()));
  ASSERT_TRUE(scheduler->Submit(MakeRequest(2, 4)).ok());
  const v1::StepPlan plan = scheduler->NextStep(TimePoint());
  auto sampled = worker.Run(plan).value();
  EXPECT_EQ(scheduler->Commit(plan.step() + 1, sampled).status().code(),
            absl::StatusCode::kInternal);
  sampled[0].tokens[0].set_index(1);
  EXPECT_EQ(scheduler->Commit(plan.step(), sampled).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace whalepod
