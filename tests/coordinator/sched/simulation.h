// A scheduler in front of the model worker, with the steps between them, and what each request got.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "coordinator/sched/scheduler.h"
#include "tests/coordinator/sched/model_worker.h"

namespace whalepod {

// Every operation checks what it can: the worker refuses a step that breaks the contract, each
// event is one that may come, and Audit recounts after each step. Failures are GoogleTest's.
class Simulation {
 public:
  struct Tracked {
    SchedulerRequest request;
    std::vector<uint32_t> got;
    bool finished = false, cancelled = false;
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    absl::Status error;
    bool ended() const { return finished || cancelled; }
  };

  explicit Simulation(const SchedulerConfig& config);

  // The id, or 0 if the queue is full or the request impossible.
  uint64_t Submit(SchedulerRequest request);
  void Cancel(uint64_t id);
  void Advance(Duration by);
  // Makes a step; Commit runs and commits the oldest that was made.
  void Step();
  void Commit();
  // Until nothing is left to do; a request that never ends is a failure.
  void RunToEnd(size_t depth = 2);
  // After RunToEnd: all got what the model gives them alone, and nothing is left behind.
  void ExpectAllRight() const;

  Scheduler& scheduler() { return *scheduler_; }
  const ModelWorker& worker() const { return worker_; }
  const std::map<uint64_t, Tracked>& requests() const { return requests_; }
  size_t in_flight() const { return queue_.size(); }
  TimePoint now() const { return now_; }

 private:
  void Take(std::vector<SequenceEvent> events);

  const SchedulerConfig config_;
  std::unique_ptr<Scheduler> scheduler_;
  ModelWorker worker_;
  std::map<uint64_t, Tracked> requests_;
  std::deque<v1::StepPlan> queue_;
  TimePoint now_{};
};

}  // namespace whalepod
