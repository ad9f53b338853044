// The scheduler over real ranks: what it shares, preempts and computes again changes no bit.
#include <deque>
#include <map>
#include <utility>

#include "base/status.h"
#include "coordinator/sched/scheduler.h"
#include "gtest/gtest.h"
#include "tests/worker/model/golden.h"
#include "tests/worker/model/harness.h"

namespace whalepod::testing {
namespace {

struct Got {
  std::vector<uint32_t> ids;
  std::vector<float> logprobs;
  bool operator==(const Got&) const = default;
};

struct Outcome {
  std::vector<Got> got;
  SchedulerStats stats;
};

SchedulerConfig ConfigFor(const Deployment& deployment, uint32_t blocks) {
  const DeploymentOptions& options = deployment.options();
  SchedulerConfig config;
  config.group_blocks.assign(options.dp, blocks);
  config.block_tokens = static_cast<uint32_t>(options.block_tokens);
  config.max_num_seqs = static_cast<uint32_t>(options.max_seqs);
  config.max_num_batched_tokens = static_cast<uint32_t>(options.max_tokens);
  config.max_model_len = static_cast<uint32_t>(options.max_model_len);
  config.min_chunk = 16;
  return config;
}

// Runs all requests to their ends, two steps in flight.
absl::StatusOr<Outcome> Serve(Deployment& deployment, const SchedulerConfig& config,
                              const std::vector<SchedulerRequest>& requests) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Scheduler> scheduler, Scheduler::Create(config));
  Outcome outcome;
  std::map<uint64_t, size_t> index;
  for (const SchedulerRequest& request : requests) {
    ASSIGN_OR_RETURN(const uint64_t id, scheduler->Submit(request));
    index.emplace(id, index.size());
  }
  outcome.got.resize(requests.size());
  const int tp = deployment.options().tp;
  std::deque<v1::StepPlan> queue;
  while (scheduler->HasWork() || !queue.empty()) {
    if (queue.size() < 2 && scheduler->HasWork()) {
      queue.push_back(scheduler->NextStep(TimePoint()));
      continue;
    }
    const uint64_t step = queue.front().step();
    ASSIGN_OR_RETURN(std::vector<v1::StepResult> results,
                     deployment.Step(std::move(queue.front())));
    queue.pop_front();
    std::vector<GroupResult> groups;
    for (size_t rank = 0; rank < results.size(); rank += tp) {
      GroupResult& group = groups.emplace_back();
      group.tokens.assign(results[rank].tokens().begin(), results[rank].tokens().end());
      group.live_sequences = results[rank].live_sequences();
      group.live_blocks = results[rank].live_blocks();
    }
    ASSIGN_OR_RETURN(const std::vector<SequenceEvent> events,
                     scheduler->Commit(step, std::move(groups)));
    for (const SequenceEvent& event : events) {
      RETURN_IF_ERROR(event.error);
      Got& got = outcome.got[index.at(event.sequence)];
      got.ids.push_back(event.token.token_id());
      got.logprobs.push_back(event.token.logprob());
    }
  }
  outcome.stats = scheduler->Stats();
  return outcome;
}

class ScheduledTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = GetParam() == "draft" ? WHALEPOD_SHARED_DIR "/data/r1-draft"
                                    : WHALEPOD_GOLDEN_DIR "/r1_like_fp8";
    if (ReadJson(folder_ + "/config.json").is_discarded()) GTEST_SKIP() << "skipped, no checkpoint";
    // Turns of a few conversations: prompts that begin alike, with ends of their own.
    for (uint32_t i = 0; i < 12; ++i) {
      SchedulerRequest& request = requests_.emplace_back();
      const uint32_t shared = 70 + 32 * (i % 3), own = 3 + 11 * (i % 4);
      for (uint32_t t = 0; t < shared; ++t) request.prompt.push_back(2 + (t * 37 + t * t) % 200);
      for (uint32_t t = 0; t < own; ++t) request.prompt.push_back(2 + (t * 31 + i) % 200);
      request.sampling.set_max_tokens(40 + 9 * (i % 5));
      request.sampling.set_ignore_eos(true);
      request.sampling.set_temperature(i % 2 == 0 ? 0.0f : 0.6f);
      request.sampling.set_seed(i);
      request.sampling.set_frequency_penalty(i % 3 == 0 ? 0.5f : 0.0f);
      request.sampling.set_logprobs(0);
    }
  }

  std::unique_ptr<Deployment> Load(int dp, int tp) {
    auto deployment = Deployment::Create({.checkpoint = folder_,
                                          .dp = dp,
                                          .tp = tp,
                                          .ep = dp * tp,
                                          .moe_tp = 1,
                                          .max_tokens = 96,
                                          .max_seqs = 6});
    EXPECT_TRUE(deployment.ok()) << deployment.status();
    return std::move(deployment).value();
  }

  // Each request by itself, with nothing cached.
  std::vector<Got> Alone() {
    std::vector<Got> alone;
    for (const SchedulerRequest& request : requests_) {
      // A new scheduler counts steps anew, and so do new ranks.
      const std::unique_ptr<Deployment> fresh = Load(1, 1);
      auto outcome = Serve(*fresh, ConfigFor(*fresh, 4), {request});
      EXPECT_TRUE(outcome.ok()) << outcome.status();
      alone.push_back(outcome->got[0]);
    }
    return alone;
  }

  std::string folder_;
  std::vector<SchedulerRequest> requests_;
};

TEST_P(ScheduledTest, PreemptedAndCachedEqualsAlone) {
  const std::vector<Got> alone = Alone();
  for (const auto& [dp, tp] : {std::pair(1, 1), std::pair(2, 2)}) {
    SCOPED_TRACE("dp" + std::to_string(dp) + " tp" + std::to_string(tp));
    const std::unique_ptr<Deployment> deployment = Load(dp, tp);
    // Blocks for two sequences, which share what they can.
    auto outcome = Serve(*deployment, ConfigFor(*deployment, 6), requests_);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
    EXPECT_GT(outcome->stats.preemptions, 0u);
    EXPECT_GT(outcome->stats.prefix_hits, 0u);
    for (size_t i = 0; i < alone.size(); ++i) EXPECT_EQ(outcome->got[i], alone[i]) << i;
  }
}

TEST_P(ScheduledTest, WithoutTheCacheToo) {
  const std::vector<Got> alone = Alone();
  const std::unique_ptr<Deployment> deployment = Load(1, 1);
  SchedulerConfig config = ConfigFor(*deployment, 6);
  config.prefix_cache = false;
  auto outcome = Serve(*deployment, config, requests_);
  ASSERT_TRUE(outcome.ok()) << outcome.status();
  EXPECT_GT(outcome->stats.preemptions, 0u);
  EXPECT_EQ(outcome->stats.prefix_hits, 0u);
  EXPECT_EQ(outcome->got, alone);
}

INSTANTIATE_TEST_SUITE_P(Models, ScheduledTest, ::testing::Values("draft", "random"));

// The tag that ends reasoning comes when the budget is spent, and until then nothing changes.
class ThinkingTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kBegin = 5, kEnd = 6;

  std::vector<uint32_t> Run(uint32_t budget, bool open, std::vector<uint32_t> generated = {}) {
    auto deployment = Deployment::Create(
        {.checkpoint = WHALEPOD_GOLDEN_DIR "/r1_like_fp8", .tp = 2, .max_tokens = 64});
    EXPECT_TRUE(deployment.ok()) << deployment.status();
    Request request{.prompt = {2, 3, 4, 9}, .generated = std::move(generated), .max_new = 12};
    request.temperature = 0.6f;
    request.more.set_top_k(50);
    if (budget < 100) request.more.set_thinking_budget(budget);
    request.more.set_think_begin(kBegin);
    request.more.set_think_end(kEnd);
    request.more.set_think_open(open);
    auto completions = Generate(**deployment, {request});
    EXPECT_TRUE(completions.ok()) << completions.status();
    return completions->at(0).ids;
  }
};

TEST_F(ThinkingTest, ClosesWhenSpent) {
  const std::vector<uint32_t> free = Run(100, true);
  for (const uint32_t id : free) ASSERT_NE(id, kEnd);  // it would go on
  for (const uint32_t budget : {0u, 1u, 5u}) {
    const std::vector<uint32_t> closed = Run(budget, true);
    EXPECT_TRUE(std::equal(free.begin(), free.begin() + budget, closed.begin()));
    EXPECT_EQ(closed[budget], kEnd);
    EXPECT_EQ(std::count(closed.begin(), closed.end(), kEnd), 1);
  }
}

TEST_F(ThinkingTest, CountsFromTheOpeningTag) {
  const std::vector<uint32_t> free = Run(100, false);
  EXPECT_EQ(Run(2, false), free);  // no tag, no reasoning
  // Entered anew with the tag and one token of reasoning: one is left.
  const std::vector<uint32_t> after = Run(2, false, {kBegin, 9});
  EXPECT_NE(after[0], kEnd);
  EXPECT_EQ(after[1], kEnd);
}

}  // namespace
}  // namespace whalepod::testing
