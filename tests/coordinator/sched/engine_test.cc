#include "coordinator/sched/engine.h"

#include <functional>
#include <future>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/loopback_ranks.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kLong(20);

class RecordingSink : public RequestSink {
 public:
  void OnToken(const v1::SampledToken& token, v1::FinishReason end) override {
    tokens.push_back(token.token_id());
    if (tokens.size() == 1) {
      if (on_first) on_first();
      first.set_value();
    }
    if (end == v1::FINISH_REASON_UNSPECIFIED) return;
    reason = end;
    done.set_value();
  }
  void OnError(const absl::Status& status) override {
    error = status;
    done.set_value();
  }
  std::function<void()> on_first;  // called with the first token, by the engine's thread
  bool Wait() { return done.get_future().wait_for(kLong) == std::future_status::ready; }

  std::vector<uint32_t> tokens;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  absl::Status error;
  std::promise<void> first, done;
};

class EngineTest : public ::testing::Test {
 protected:
  static SchedulerRequest MakeRequest(uint32_t salt, uint32_t prompt_len, uint32_t max_tokens) {
    SchedulerRequest request;
    for (uint32_t i = 0; i < prompt_len; ++i) request.prompt.push_back(salt + i);
    request.sampling.set_seed(salt);
    request.sampling.set_max_tokens(max_tokens);
    request.sampling.set_ignore_eos(true);
    return request;
  }

  static SchedulerConfig Config() {
    SchedulerConfig config;
    config.group_blocks = {64, 64};
    config.block_tokens = 4;
    config.max_num_seqs = 8;
    config.max_num_batched_tokens = 64;
    config.max_model_len = 100;
    config.min_chunk = 16;
    config.eos_token_ids = {7};
    return config;
  }

  LoopbackEngine loopback_{Config()};
  LoopbackRanks* const ranks_ = loopback_.ranks.get();
  Engine* const engine_ = loopback_.engine.get();
};

TEST_F(EngineTest, ManyRequestsShareTheBatch) {
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  ranks_->Hold(true);
  for (uint32_t i = 0; i < 40; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(engine_->Submit(MakeRequest(i, 1 + i % 30, 1 + i % 13), sinks.back()).ok());
  }
  EXPECT_TRUE(ranks_->WaitQueued(2));
  ranks_->Hold(false);
  for (uint32_t i = 0; i < 40; ++i) {
    ASSERT_TRUE(sinks[i]->Wait());
    const SchedulerRequest request = MakeRequest(i, 1 + i % 30, 1 + i % 13);
    ASSERT_EQ(sinks[i]->tokens.size(), request.sampling.max_tokens());
    for (uint32_t t = 0; t < sinks[i]->tokens.size(); ++t) {
      EXPECT_EQ(sinks[i]->tokens[t], ModelWorker::TokenAt(request.prompt, i, t, 1000));
    }
    EXPECT_EQ(sinks[i]->reason, v1::FINISH_REASON_LENGTH);
  }
  engine_->Drain();
  EXPECT_TRUE(engine_->WaitDrained(kLong));
  EXPECT_EQ(ranks_->most_queued(), 2u);
  EXPECT_TRUE(engine_->Audit().ok());
  EXPECT_EQ(engine_->Stats().blocks_owned, 0u);
  EXPECT_EQ(engine_->Submit(MakeRequest(1, 1, 1), sinks[0]).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST_F(EngineTest, IdleDeploymentSteps) { EXPECT_TRUE(ranks_->WaitSteps(3)); }

TEST_F(EngineTest, CancelFreesEverything) {
  auto sink = std::make_shared<RecordingSink>();
  sink->on_first = [this] {
    ranks_->Hold(true);
  };  // else the request might end before it is cancelled
  const uint64_t id = engine_->Submit(MakeRequest(3, 4, 90), sink).value();
  ASSERT_EQ(sink->first.get_future().wait_for(kLong), std::future_status::ready);
  engine_->Cancel(id);
  ranks_->Hold(false);
  engine_->Drain();
  EXPECT_TRUE(engine_->WaitDrained(kLong));
  EXPECT_EQ(engine_->Stats().blocks_owned, 0u);
  EXPECT_EQ(engine_->Stats().cancelled, 1u);
}

TEST_F(EngineTest, FailureEndsEveryRequestByName) {
  ranks_->Hold(true);
  auto running = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine_->Submit(MakeRequest(3, 4, 90), running).ok());
  engine_->Fail(absl::UnavailableError("rank 3 is lost"));
  ASSERT_TRUE(running->Wait());
  EXPECT_THAT(running->error.message(), HasSubstr("rank 3"));
  EXPECT_EQ(engine_->Submit(MakeRequest(1, 1, 1), running).status().message(), "rank 3 is lost");
  EXPECT_TRUE(engine_->WaitDrained(kLong));
}

TEST_F(EngineTest, WrongResultsBreakTheEpoch) {
  std::promise<absl::Status> broken;
  engine_->SetOnBroken([&](const absl::Status& status) { broken.set_value(status); });
  ranks_->Hold(true);
  ranks_->lose_token = true;
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine_->Submit(MakeRequest(3, 4, 90), sink).ok());
  ranks_->Hold(false);
  auto future = broken.get_future();
  ASSERT_EQ(future.wait_for(kLong), std::future_status::ready);
  EXPECT_THAT(future.get().message(), HasSubstr("0 sampled tokens, expected 1"));
  ASSERT_TRUE(sink->Wait());
  EXPECT_EQ(sink->error.code(), absl::StatusCode::kInternal);
}

TEST_F(EngineTest, NanFailsItsRequestAndTheRestGoesOn) {
  ranks_->Hold(true);
  ranks_->worker().FailToken(MakeRequest(3, 4, 9).prompt, 2);
  auto bad = std::make_shared<RecordingSink>();
  auto good = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine_->Submit(MakeRequest(3, 4, 9), bad).ok());
  ASSERT_TRUE(engine_->Submit(MakeRequest(4, 4, 9), good).ok());
  ranks_->Hold(false);
  ASSERT_TRUE(bad->Wait());
  ASSERT_TRUE(good->Wait());
  EXPECT_EQ(bad->error.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(bad->tokens.size(), 2u);
  EXPECT_EQ(good->tokens.size(), 9u);
}

}  // namespace
}  // namespace whalepod
