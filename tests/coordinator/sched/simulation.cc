#include "tests/coordinator/sched/simulation.h"

#include <algorithm>
#include <utility>

#include "gtest/gtest.h"
#include "tests/coordinator/sched/test_requests.h"

namespace whalepod {
namespace {

void ExpectRight(const Simulation::Tracked& tracked, const std::vector<uint32_t>& eos) {
  std::vector<uint32_t> want;
  v1::FinishReason reason = v1::FINISH_REASON_LENGTH;
  const v1::SamplingParams& sampling = tracked.request.sampling;
  for (uint32_t i = 0; i < sampling.max_tokens(); ++i) {
    want.push_back(ModelWorker::TokenAt(tracked.request.prompt, sampling.seed(), i, 1000));
    const auto& stops = sampling.stop_token_ids();
    if ((!sampling.ignore_eos() && std::count(eos.begin(), eos.end(), want.back()) > 0) ||
        std::count(stops.begin(), stops.end(), want.back()) > 0) {
      reason = v1::FINISH_REASON_STOP;
      break;
    }
  }
  if (tracked.finished && tracked.error.ok()) {
    EXPECT_EQ(tracked.got, want);
    EXPECT_EQ(tracked.reason, reason);
    return;
  }
  ASSERT_TRUE(tracked.ended());
  ASSERT_LE(tracked.got.size(), want.size());
  want.resize(tracked.got.size());
  EXPECT_EQ(tracked.got, want);
}

}  // namespace

Simulation::Simulation(const SchedulerConfig& config)
    : config_(config), scheduler_(Make(config)), worker_(ModelWorker::ConfigFor(config)) {}

uint64_t Simulation::Submit(SchedulerRequest request) {
  request.arrival = now_;
  const std::vector<uint32_t> had = request.generated;
  const absl::StatusOr<uint64_t> id = scheduler_->Submit(request);
  if (!id.ok()) return 0;
  requests_[*id].request = std::move(request);
  requests_[*id].got = had;
  return *id;
}

void Simulation::Cancel(uint64_t id) {
  Tracked& tracked = requests_.at(id);
  ASSERT_EQ(scheduler_->Cancel(id), !tracked.ended());
  if (!tracked.ended()) tracked.cancelled = true;
}

void Simulation::Advance(Duration by) {
  now_ += by;
  Take(scheduler_->Expire(now_));
  ASSERT_GT(scheduler_->NextDeadline(), now_);
}

void Simulation::Step() {
  queue_.push_back(scheduler_->NextStep(now_));
  const absl::Status audit = scheduler_->Audit();
  ASSERT_TRUE(audit.ok()) << audit;
}

void Simulation::Commit() {
  auto results = worker_.Run(queue_.front());
  ASSERT_TRUE(results.ok()) << results.status() << "\n" << queue_.front().DebugString();
  auto events = scheduler_->Commit(queue_.front().step(), *std::move(results));
  ASSERT_TRUE(events.ok()) << events.status();
  queue_.pop_front();
  Take(*std::move(events));
}

void Simulation::Take(std::vector<SequenceEvent> events) {
  for (const SequenceEvent& event : events) {
    Tracked& tracked = requests_.at(event.sequence);
    ASSERT_FALSE(tracked.ended());
    if (event.has_token) {
      ASSERT_EQ(event.token.index(), tracked.got.size());
      tracked.got.push_back(event.token.token_id());
    }
    tracked.finished = event.finished;
    tracked.reason = event.reason;
    tracked.error = event.error;
    if (absl::IsDeadlineExceeded(event.error)) {
      const SchedulerRequest& request = tracked.request;
      ASSERT_LE(std::min({request.deadline, request.first_token_deadline, request.queue_deadline}),
                now_);
    }
  }
}

void Simulation::RunToEnd(size_t depth) {
  for (int i = 0; scheduler_->HasWork() || !queue_.empty(); ++i) {
    ASSERT_LT(i, 40000) << "requests do not end";
    if (queue_.size() < depth && scheduler_->HasWork()) {
      Step();
    } else {
      Commit();
    }
    if (::testing::Test::HasFatalFailure()) return;
  }
}

void Simulation::ExpectAllRight() const {
  for (const auto& [id, tracked] : requests_) {
    SCOPED_TRACE(id);
    ExpectRight(tracked, config_.eos_token_ids);
  }
  const SchedulerStats stats = scheduler_->Stats();
  EXPECT_EQ(stats.blocks_owned + stats.running + stats.waiting, 0u);
  EXPECT_EQ(stats.waiting_tokens, 0u);
  EXPECT_EQ(stats.submitted, stats.finished + stats.cancelled + stats.expired);
  EXPECT_EQ(worker_.live(), 0u);
  EXPECT_EQ(worker_.rows(), stats.prefill_tokens + stats.decode_tokens);
  EXPECT_TRUE(scheduler_->Audit().ok()) << scheduler_->Audit();
  EXPECT_EQ(scheduler_->NextDeadline(), kNoDeadline);
}

}  // namespace whalepod
