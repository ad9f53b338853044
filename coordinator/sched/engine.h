// The engine loop: one thread that asks the scheduler for steps, hands them to the ranks and gives
// what comes back to the clients' sinks. Keeps two steps in flight while there is work; without
// work it runs an empty step each second, so that a ready deployment is one whose ranks step.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "coordinator/sched/scheduler.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

// What all ranks answered to one step.
struct StepOutcome {
  uint64_t step = 0;
  std::vector<GroupResult> groups;        // by DP group
  std::vector<v1::PromptLogprob> prompt;  // of all; a sequence's are together
  // How it went, for metrics.
  uint64_t tokens = 0;                // that it ran, in all DP groups
  Duration duration{0};               // from when it was the oldest sent until its last answer
  std::vector<uint32_t> rank_micros;  // by rank: in its executor
  v1::ExpertLoad expert_load;         // of all ranks together; empty in most steps
};

// Where steps go; the fleet. Send must not block and must not call back into the engine.
class StepSender {
 public:
  virtual ~StepSender() = default;
  virtual void SendStep(v1::StepPlan step) = 0;
};

// Where one request's events go. Called from the engine's thread only, in order, never after the
// token that ends it or OnError; a call may still be on its way when Cancel returns. Must not
// block.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  // A step that runs some of it is made, which found this many tokens in the prefix cache. Again
  // where it was preempted and goes on.
  virtual void OnScheduled(uint32_t cached_tokens) {}
  // `end`: why this is the last one; FINISH_REASON_UNSPECIFIED: it is not.
  virtual void OnToken(const v1::SampledToken& token, v1::FinishReason end) = 0;
  // Some of the prompt's tokens in order, all of them before OnToken; where they are asked for.
  virtual void OnPrompt(absl::Span<const v1::PromptLogprob> tokens) {}
  virtual void OnError(const absl::Status& status) = 0;
};

class Engine {
 public:
  struct Options {
    StepSender* sender = nullptr;  // not owned, outlives the engine
    const Clock* clock = Clock::Real();
    std::chrono::milliseconds idle_step{1000};
    int steps_ahead = 2;
  };
  Engine(Options options, std::unique_ptr<Scheduler> scheduler);
  // Stops; requests still there get no further event.
  ~Engine();

  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void Start();
  // Joins the thread: no step is sent and no sink called any more. Start cannot follow.
  void Stop();

  // Queues a request; its events go to `sink`. INVALID_ARGUMENT and RESOURCE_EXHAUSTED as
  // Scheduler::Submit says; UNAVAILABLE while draining; the deployment's error once it has failed.
  absl::StatusOr<uint64_t> Submit(SchedulerRequest request, std::shared_ptr<RequestSink> sink);
  // Forgets a request; no-op if it has ended.
  void Cancel(uint64_t sequence);

  // From the fleet; may be called with its lock held.
  void OnStepDone(StepOutcome outcome);
  // The deployment is over: every request ends with `status`, new ones too. First call wins.
  void Fail(absl::Status status);

  // Takes no new requests; those there go on.
  void Drain();
  // Waits until no request is left and no step is in flight, or the engine has failed; false when
  // `timeout` passes first.
  bool WaitDrained(std::chrono::milliseconds timeout);
  // Ends every request with `status` and goes on without them.
  void EndRequests(const absl::Status& status);

  int64_t MaxSequenceTokens() const { return max_sequence_tokens_; }
  SchedulerStats Stats() const;
  absl::Status Audit() const;
  // Not OK once the ranks answered what they could not have: the caller must end the epoch.
  absl::Status Health() const;
  // Called once from the engine's thread when Health() turns bad by what the ranks sent.
  void SetOnBroken(std::function<void(const absl::Status&)> callback);

 private:
  struct Delivery {
    std::shared_ptr<RequestSink> sink;
    std::vector<v1::PromptLogprob> prompt;
    SequenceEvent event;
    std::optional<uint32_t> cached_tokens;  // it is scheduled, and found so many
  };

  void Loop();
  void NoteScheduledLocked(const v1::StepPlan& step, std::vector<Delivery>* deliveries);
  bool CanStepLocked(bool idle_due) const;
  void TakeEventsLocked(std::vector<SequenceEvent> events, std::vector<Delivery>* deliveries);
  void CommitLocked(StepOutcome outcome, std::vector<Delivery>* deliveries);
  void FailLocked(absl::Status status);
  void TakePromptLocked(std::vector<v1::PromptLogprob> prompt, std::vector<Delivery>* deliveries);
  static void Deliver(const Delivery& delivery);

  const Options options_;
  int64_t max_sequence_tokens_;
  mutable std::mutex mu_;
  std::condition_variable wake_;
  std::condition_variable drained_;
  std::unique_ptr<Scheduler> scheduler_;
  std::unordered_map<uint64_t, std::shared_ptr<RequestSink>> sinks_;
  std::vector<Delivery> undelivered_;  // errors to hand out from the engine's thread
  std::deque<StepOutcome> outcomes_;
  absl::Status health_;
  std::function<void(const absl::Status&)> on_broken_;
  bool draining_ = false;
  bool delivering_ = false;  // the thread is calling sinks
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace whalepod
