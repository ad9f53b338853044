#include "coordinator/sched/scheduler.h"

#include <deque>
#include <map>
#include <random>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/model_worker.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

SchedulerConfig SmallConfig() {
  SchedulerConfig config;
  config.group_blocks = {16};
  config.block_tokens = 4;
  config.max_num_seqs = 4;
  config.max_num_batched_tokens = 16;
  config.max_model_len = 48;
  config.min_chunk = 1;
  return config;
}

ModelWorker::Config WorkerFor(const SchedulerConfig& config) {
  ModelWorker::Config worker;
  worker.group_blocks = config.group_blocks;
  worker.block_tokens = config.block_tokens;
  worker.max_num_seqs = config.max_num_seqs;
  worker.max_num_batched_tokens = config.max_num_batched_tokens;
  worker.first_step = config.first_step;
  return worker;
}

SchedulerRequest MakeRequest(uint32_t prompt_len, uint32_t max_tokens, uint32_t salt = 1) {
  SchedulerRequest request;
  for (uint32_t i = 0; i < prompt_len; ++i) request.prompt.push_back(salt * 1000 + i);
  request.sampling.set_seed(salt);
  request.sampling.set_max_tokens(max_tokens);
  request.sampling.set_ignore_eos(true);
  return request;
}

std::unique_ptr<Scheduler> Make(const SchedulerConfig& config) {
  auto scheduler = Scheduler::Create(config);
  EXPECT_TRUE(scheduler.ok()) << scheduler.status();
  return std::move(scheduler).value();
}

TEST(Scheduler, OneRequestFromPromptToLastToken) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(WorkerFor(SmallConfig()));
  const uint64_t id = scheduler->Submit(MakeRequest(6, 3)).value();

  v1::StepPlan first = scheduler->NextStep();
  ASSERT_EQ(first.new_sequences_size(), 1);
  EXPECT_EQ(first.new_sequences(0).sequence(), id);
  ASSERT_EQ(first.granted_size(), 1);
  EXPECT_EQ(first.granted(0).blocks_size(), 2);  // 6 tokens in blocks of 4
  ASSERT_EQ(first.prefill_size(), 1);
  EXPECT_EQ(first.prefill(0).tokens(), 6u);
  EXPECT_EQ(first.group_tokens(0), 6u);
  // Made before the first one's result: the decode row needs no word of its own.
  v1::StepPlan second = scheduler->NextStep();
  EXPECT_EQ(second.group_tokens(0), 1u);
  EXPECT_EQ(second.new_sequences_size() + second.prefill_size() + second.granted_size(), 0);
  v1::StepPlan third = scheduler->NextStep();
  v1::StepPlan fourth = scheduler->NextStep();  // all three tokens are sampled by now
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

TEST(Scheduler, EndTokenStopsAndOverrunIsIgnored) {
  SchedulerConfig config = SmallConfig();
  SchedulerRequest request = MakeRequest(2, 20);
  request.sampling.set_ignore_eos(false);
  config.eos_token_ids = {ModelWorker::TokenAt(request.prompt, 1, 1, 1000)};
  auto scheduler = Make(config);
  ModelWorker worker(WorkerFor(config));
  ASSERT_TRUE(scheduler->Submit(request).ok());
  std::deque<v1::StepPlan> queue = {scheduler->NextStep(), scheduler->NextStep()};
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
    if (scheduler->HasWork()) queue.push_back(scheduler->NextStep());
  }
  EXPECT_TRUE(finished);
  EXPECT_EQ(tokens, 2);
  EXPECT_EQ(scheduler->Stats().overrun_tokens, 1u);
  EXPECT_EQ(worker.live(), 0u);
}

TEST(Scheduler, FailedTokenEndsItsRequestOnly) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(WorkerFor(SmallConfig()));
  const uint64_t bad = scheduler->Submit(MakeRequest(2, 4, 1)).value();
  const uint64_t good = scheduler->Submit(MakeRequest(2, 4, 2)).value();
  worker.FailToken(MakeRequest(2, 4, 1).prompt, 1);
  std::map<uint64_t, int> tokens;
  absl::Status error;
  while (scheduler->HasWork()) {
    const v1::StepPlan plan = scheduler->NextStep();
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
  scheduler->NextStep();
  EXPECT_EQ(scheduler->Stats().blocks_owned, 2u);
  EXPECT_TRUE(scheduler->Cancel(id));
  EXPECT_FALSE(scheduler->Cancel(id));
  const v1::StepPlan next = scheduler->NextStep();
  EXPECT_EQ(next.stopped_size(), 1);
  EXPECT_EQ(scheduler->Stats().blocks_owned, 0u);
  EXPECT_EQ(scheduler->Stats().blocks_promised, 0u);
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
    const v1::StepPlan plan = scheduler->NextStep();
    for (const v1::PrefillChunk& chunk : plan.prefill()) chunks.push_back(chunk.tokens());
    totals.push_back(plan.group_tokens(0));
  }
  EXPECT_THAT(chunks, ::testing::ElementsAre(1, 9, 9, 2));
  EXPECT_THAT(totals, ::testing::ElementsAre(10, 10, 3));
}

TEST(Scheduler, NobodyOvertakesTheFirstInTheQueue) {
  auto scheduler = Make(SmallConfig());  // 16 blocks of 4 tokens
  const uint64_t running = scheduler->Submit(MakeRequest(10, 20, 1)).value();
  const uint64_t large = scheduler->Submit(MakeRequest(10, 30, 2)).value();
  const uint64_t small = scheduler->Submit(MakeRequest(1, 1, 3)).value();
  const v1::StepPlan first = scheduler->NextStep();
  ASSERT_EQ(first.new_sequences_size(), 1);
  EXPECT_EQ(first.new_sequences(0).sequence(), running);
  EXPECT_EQ(scheduler->NextStep().new_sequences_size(), 0);
  scheduler->Cancel(running);
  const v1::StepPlan next = scheduler->NextStep();
  ASSERT_EQ(next.new_sequences_size(), 2);
  EXPECT_EQ(next.new_sequences(0).sequence(), large);
  EXPECT_EQ(next.new_sequences(1).sequence(), small);
}

TEST(Scheduler, RequestsSpreadOverDpGroups) {
  SchedulerConfig config = SmallConfig();
  config.group_blocks = {16, 16};
  auto scheduler = Make(config);
  for (uint32_t i = 0; i < 4; ++i) ASSERT_TRUE(scheduler->Submit(MakeRequest(2, 4, i)).ok());
  const v1::StepPlan plan = scheduler->NextStep();
  EXPECT_THAT(plan.group_tokens(), ::testing::ElementsAre(4, 4));
}

TEST(Scheduler, ResultsThatDoNotFitAreRefused) {
  auto scheduler = Make(SmallConfig());
  ModelWorker worker(WorkerFor(SmallConfig()));
  ASSERT_TRUE(scheduler->Submit(MakeRequest(2, 4)).ok());
  const v1::StepPlan plan = scheduler->NextStep();
  auto sampled = worker.Run(plan).value();
  EXPECT_EQ(scheduler->Commit(plan.step() + 1, sampled).status().code(),
            absl::StatusCode::kInternal);
  sampled[0][0].set_index(1);
  EXPECT_EQ(scheduler->Commit(plan.step(), sampled).status().code(), absl::StatusCode::kInternal);
}

// Random arrivals, lengths, stops, cancels and depths against the model worker, which refuses every
// step that breaks the contract. What a request gets must be what the model says it gets alone.
class SchedulerProperty : public ::testing::TestWithParam<int> {};

struct Tracked {
  SchedulerRequest request;
  std::vector<uint32_t> got;
  bool finished = false;
  bool cancelled = false;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
};

void ExpectRightTokens(const Tracked& tracked, const std::vector<uint32_t>& eos) {
  std::vector<uint32_t> want;
  v1::FinishReason reason = v1::FINISH_REASON_LENGTH;
  const auto& stops = tracked.request.sampling.stop_token_ids();
  for (uint32_t i = 0; i < tracked.request.sampling.max_tokens(); ++i) {
    want.push_back(
        ModelWorker::TokenAt(tracked.request.prompt, tracked.request.sampling.seed(), i, 1000));
    const bool is_eos = !tracked.request.sampling.ignore_eos() &&
                        std::find(eos.begin(), eos.end(), want.back()) != eos.end();
    if (is_eos || std::find(stops.begin(), stops.end(), want.back()) != stops.end()) {
      reason = v1::FINISH_REASON_STOP;
      break;
    }
  }
  if (tracked.finished) {
    EXPECT_EQ(tracked.got, want);
    EXPECT_EQ(tracked.reason, reason);
  } else {
    ASSERT_TRUE(tracked.cancelled);
    ASSERT_LE(tracked.got.size(), want.size());
    want.resize(tracked.got.size());
    EXPECT_EQ(tracked.got, want);
  }
}

TEST_P(SchedulerProperty, RandomEvents) {
  std::mt19937 rng(GetParam());
  const auto pick = [&rng](uint32_t lo, uint32_t hi) {
    return std::uniform_int_distribution<uint32_t>(lo, hi)(rng);
  };
  SchedulerConfig config;
  const uint32_t groups = pick(1, 3);
  for (uint32_t g = 0; g < groups; ++g) config.group_blocks.push_back(pick(6, 30));
  config.block_tokens = pick(1, 5);
  config.max_num_seqs = pick(1, 6);
  config.max_model_len = pick(8, 60);
  config.min_chunk = pick(1, 8);
  config.max_num_batched_tokens = config.max_num_seqs - 1 + config.min_chunk + pick(0, 20);
  config.max_waiting = pick(1, 12);
  for (uint32_t t = 0; t < 100; ++t) config.eos_token_ids.push_back(t);
  config.first_step = 2;
  auto scheduler = Make(config);
  ModelWorker worker(WorkerFor(config));
  const size_t depth = pick(1, 2);

  std::map<uint64_t, Tracked> tracked;
  std::deque<v1::StepPlan> queue;
  const auto step_once = [&] {
    queue.push_back(scheduler->NextStep());
    const absl::Status audit = scheduler->Audit();
    ASSERT_TRUE(audit.ok()) << audit;
  };
  const auto commit_once = [&] {
    auto sampled = worker.Run(queue.front());
    ASSERT_TRUE(sampled.ok()) << sampled.status() << "\n" << queue.front().DebugString();
    auto events = scheduler->Commit(queue.front().step(), *sampled);
    ASSERT_TRUE(events.ok()) << events.status();
    queue.pop_front();
    for (const SequenceEvent& event : *events) {
      Tracked& t = tracked.at(event.sequence);
      ASSERT_FALSE(t.finished || t.cancelled);
      if (event.has_token) t.got.push_back(event.token.token_id());
      t.finished = event.finished;
      t.reason = event.reason;
    }
  };
  for (int i = 0; i < 1500 && !HasFatalFailure(); ++i) {
    switch (pick(0, 9)) {
      case 0:
      case 1: {
        SchedulerRequest request = MakeRequest(pick(1, 50), pick(1, 40), pick(1, 1u << 20));
        request.sampling.set_ignore_eos(pick(0, 1) == 0);
        if (pick(0, 3) == 0) request.sampling.add_stop_token_ids(pick(0, 999));
        auto id = scheduler->Submit(request);
        if (id.ok()) tracked[*id].request = std::move(request);
        break;
      }
      case 2:
        if (!tracked.empty()) {
          auto it = tracked.lower_bound(pick(1, tracked.rbegin()->first));
          const bool ended = it->second.finished || it->second.cancelled;
          ASSERT_EQ(scheduler->Cancel(it->first), !ended);
          it->second.cancelled = it->second.cancelled || !ended;
        }
        break;
      default:
        if (queue.size() < depth && pick(0, 2) > 0) {
          step_once();
        } else if (!queue.empty()) {
          commit_once();
        }
    }
  }
  // Every request ends: each step makes progress.
  for (int i = 0; (scheduler->HasWork() || !queue.empty()) && !HasFatalFailure(); ++i) {
    ASSERT_LT(i, 20000);
    if (queue.size() < depth && scheduler->HasWork()) {
      step_once();
    } else {
      commit_once();
    }
  }
  for (const auto& [id, t] : tracked) ExpectRightTokens(t, config.eos_token_ids);
  const SchedulerStats stats = scheduler->Stats();
  EXPECT_EQ(stats.blocks_owned + stats.blocks_promised + stats.running + stats.waiting, 0u);
  EXPECT_EQ(stats.submitted, stats.finished + stats.cancelled);
  EXPECT_EQ(worker.live(), 0u);
  EXPECT_EQ(worker.rows(), stats.prefill_tokens + stats.decode_tokens);
  EXPECT_TRUE(scheduler->Audit().ok());
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerProperty, ::testing::Range(0, 60));

}  // namespace
}  // namespace whalepod
