#include "coordinator/cli/bench/load.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "coordinator/cli/bench/arrivals.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

// Lets each request end when `together` are there, or no more will come.
class Gate final : public LoadTarget {
 public:
  Gate(size_t together, size_t total) : together_(together), left_(total) {}

  void Run(const v1::GenerateRequest& request, const LoadClock& clock,
           LoadRecord* record) override {
    std::unique_lock lock(mu_);
    most_ = std::max(most_, ++inside_);
    ++arrived_;
    --left_;
    changed_.notify_all();
    const size_t round = (arrived_ + together_ - 1) / together_ * together_;
    changed_.wait(lock, [&] { return arrived_ >= round || left_ == 0; });
    --inside_;
    record->chunks.push_back(clock.Now());
    record->output_tokens = static_cast<int64_t>(request.options().max_tokens());
  }
  size_t most() const { return most_; }

 private:
  const size_t together_;
  std::mutex mu_;
  std::condition_variable changed_;
  size_t left_, arrived_ = 0, inside_ = 0, most_ = 0;
};

std::vector<v1::GenerateRequest> Requests(size_t count) {
  std::vector<v1::GenerateRequest> requests(count);
  for (size_t i = 0; i < count; ++i) {
    requests[i].mutable_options()->set_max_tokens(static_cast<uint32_t>(i));
  }
  return requests;
}

TEST(LoadTest, AClosedLoopHasSoManyUnderWayAndNoMore) {
  Gate gate(4, 22);  // ends only if 4 are let in together
  const LoadRun run = RunLoad(gate, Requests(22), std::vector<double>(22, 0.0), 4);
  EXPECT_EQ(gate.most(), 4u);
  ASSERT_EQ(run.records.size(), 22u);
  for (size_t i = 0; i < 22; ++i) {
    EXPECT_EQ(run.records[i].output_tokens, static_cast<int64_t>(i));
    EXPECT_LE(run.records[i].start, run.records[i].chunks[0]);
    EXPECT_LE(run.records[i].chunks[0], run.records[i].end);
    EXPECT_LE(run.records[i].end, run.duration);
  }
}

TEST(LoadTest, WithoutALimitAllAreUnderWay) {
  Gate gate(50, 50);
  RunLoad(gate, Requests(50), std::vector<double>(50, 0.0), 0);
  EXPECT_EQ(gate.most(), 50u);
}

TEST(LoadTest, NoneIsSentBeforeItIsDue) {
  Gate gate(1, 30);
  const std::vector<double> arrivals = ArrivalTimes({.count = 30, .rate = 300, .seed = 1});
  const LoadRun run = RunLoad(gate, Requests(30), arrivals, 0);
  for (size_t i = 0; i < 30; ++i) {
    EXPECT_EQ(run.records[i].due, arrivals[i]);
    EXPECT_GE(run.records[i].start, arrivals[i] - 1e-6);
  }
  EXPECT_GE(run.duration, 0.1 - 1e-6);
}

}  // namespace
}  // namespace whalepod
