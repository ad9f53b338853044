#include "coordinator/sched/engine.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace whalepod {

Engine::Engine(Options options, std::unique_ptr<Scheduler> scheduler)
    : options_(options),
      max_sequence_tokens_(scheduler->MaxSequenceTokens()),
      scheduler_(std::move(scheduler)) {}

Engine::~Engine() { Stop(); }

void Engine::Stop() {
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Engine::Start() {
  CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Loop(); });
}

absl::StatusOr<uint64_t> Engine::Submit(SchedulerRequest request,
                                        std::shared_ptr<RequestSink> sink) {
  std::lock_guard lock(mu_);
  RETURN_IF_ERROR(health_);
  if (draining_) return absl::UnavailableError("the deployment is shutting down");
  ASSIGN_OR_RETURN(const uint64_t sequence, scheduler_->Submit(std::move(request)));
  sinks_.emplace(sequence, std::move(sink));
  wake_.notify_all();
  return sequence;
}

void Engine::Cancel(uint64_t sequence) {
  std::lock_guard lock(mu_);
  if (sinks_.erase(sequence) == 0) return;
  scheduler_->Cancel(sequence);
  wake_.notify_all();
  drained_.notify_all();
}

void Engine::OnStepDone(StepOutcome outcome) {
  std::lock_guard lock(mu_);
  outcomes_.push_back(std::move(outcome));
  wake_.notify_all();
}

void Engine::Fail(absl::Status status) {
  std::lock_guard lock(mu_);
  FailLocked(std::move(status));
}

void Engine::FailLocked(absl::Status status) {
  if (!health_.ok()) return;
  health_ = std::move(status);
  for (auto& [sequence, sink] : sinks_) {
    SequenceEvent event;
    event.sequence = sequence;
    event.finished = true;
    event.error = health_;
    undelivered_.push_back({std::move(sink), {}, std::move(event)});
  }
  sinks_.clear();
  wake_.notify_all();
  drained_.notify_all();
}

void Engine::EndRequests(const absl::Status& status) {
  std::lock_guard lock(mu_);
  for (auto& [sequence, sink] : sinks_) {
    scheduler_->Cancel(sequence);
    SequenceEvent event;
    event.sequence = sequence;
    event.finished = true;
    event.error = status;
    undelivered_.push_back({std::move(sink), {}, std::move(event)});
  }
  sinks_.clear();
  wake_.notify_all();
}

void Engine::Drain() {
  std::lock_guard lock(mu_);
  draining_ = true;
  wake_.notify_all();
}

bool Engine::WaitDrained(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mu_);
  return drained_.wait_for(lock, timeout, [this] {
    if (!undelivered_.empty() || delivering_) return false;
    return !health_.ok() ||
           (sinks_.empty() && scheduler_->InFlight() == 0 && !scheduler_->HasWork());
  });
}

SchedulerStats Engine::Stats() const {
  std::lock_guard lock(mu_);
  return scheduler_->Stats();
}

absl::Status Engine::Audit() const {
  std::lock_guard lock(mu_);
  return scheduler_->Audit();
}

absl::Status Engine::Health() const {
  std::lock_guard lock(mu_);
  return health_;
}

void Engine::SetOnBroken(std::function<void(const absl::Status&)> callback) {
  std::lock_guard lock(mu_);
  on_broken_ = std::move(callback);
}

bool Engine::CanStepLocked(bool idle_due) const {
  if (!health_.ok()) return false;
  if (static_cast<int>(scheduler_->InFlight()) >= options_.steps_ahead) return false;
  return scheduler_->HasWork() || (idle_due && !draining_ && scheduler_->InFlight() == 0);
}

void Engine::CommitLocked(StepOutcome outcome, std::vector<Delivery>* deliveries) {
  if (!health_.ok()) return;
  TakePromptLocked(std::move(outcome.prompt), deliveries);
  absl::StatusOr<std::vector<SequenceEvent>> events =
      scheduler_->Commit(outcome.step, std::move(outcome.groups));
  if (!events.ok()) {
    FailLocked(Annotate(events.status(), "the ranks' answer contradicts the schedule"));
    return;
  }
  TakeEventsLocked(*std::move(events), deliveries);
}

void Engine::TakeEventsLocked(std::vector<SequenceEvent> events,
                              std::vector<Delivery>* deliveries) {
  for (SequenceEvent& event : events) {
    const auto it = sinks_.find(event.sequence);
    if (it == sinks_.end()) continue;
    Delivery delivery{it->second, {}, std::move(event)};
    if (delivery.event.finished) sinks_.erase(it);
    deliveries->push_back(std::move(delivery));
  }
}

void Engine::TakePromptLocked(std::vector<v1::PromptLogprob> prompt,
                              std::vector<Delivery>* deliveries) {
  uint64_t last = 0;  // no sequence has this number
  for (v1::PromptLogprob& token : prompt) {
    const auto it = sinks_.find(token.sequence());
    if (it == sinks_.end()) continue;
    if (token.sequence() != last) deliveries->push_back({it->second, {}, {}});
    last = token.sequence();
    deliveries->back().prompt.push_back(std::move(token));
  }
}

void Engine::NoteScheduledLocked(const v1::StepPlan& step, std::vector<Delivery>* deliveries) {
  for (const v1::NewSequence& sequence : step.new_sequences()) {
    const auto it = sinks_.find(sequence.sequence());
    if (it == sinks_.end()) continue;
    Delivery& delivery = deliveries->emplace_back();
    delivery.sink = it->second;
    delivery.cached_tokens = sequence.computed();
  }
}

void Engine::Deliver(const Delivery& delivery) {
  if (delivery.cached_tokens) delivery.sink->OnScheduled(*delivery.cached_tokens);
  if (!delivery.prompt.empty()) delivery.sink->OnPrompt(delivery.prompt);
  const SequenceEvent& event = delivery.event;
  if (event.has_token) delivery.sink->OnToken(event.token, event.reason);
  if (!event.error.ok()) delivery.sink->OnError(event.error);
}

void Engine::Loop() {
  std::unique_lock lock(mu_);
  auto last_step = std::chrono::steady_clock::now();
  bool broken_told = false;
  while (!stopping_) {
    const auto idle_at = last_step + options_.idle_step;
    const auto ready = [&] {
      return stopping_ || !outcomes_.empty() || !undelivered_.empty() || CanStepLocked(false);
    };
    // Deadlines are of the injected clock; this one only says when to look at it.
    const auto until = std::min<TimePoint>(idle_at, scheduler_->NextDeadline());
    const bool timed_out = !wake_.wait_until(lock, until, ready);
    const bool idle_due = timed_out && std::chrono::steady_clock::now() >= idle_at;
    if (stopping_) break;

    std::vector<Delivery> deliveries;
    if (health_.ok()) TakeEventsLocked(scheduler_->Expire(options_.clock->Now()), &deliveries);
    bool broke = false;
    while (!outcomes_.empty()) {
      StepOutcome outcome = std::move(outcomes_.front());
      outcomes_.pop_front();
      const bool was_healthy = health_.ok();
      CommitLocked(std::move(outcome), &deliveries);
      broke = broke || (was_healthy && !health_.ok());
    }
    std::vector<v1::StepPlan> steps;
    while (CanStepLocked(idle_due && steps.empty())) {
      steps.push_back(scheduler_->NextStep(options_.clock->Now()));
      NoteScheduledLocked(steps.back(), &deliveries);
    }
    if (!steps.empty() || idle_due) last_step = std::chrono::steady_clock::now();
    for (Delivery& delivery : undelivered_) deliveries.push_back(std::move(delivery));
    undelivered_.clear();
    const absl::Status health = health_;
    const auto on_broken = broke && !broken_told ? on_broken_ : nullptr;

    // The ranks come first: they are idle until they have the step, the clients are not.
    delivering_ = true;
    lock.unlock();
    for (v1::StepPlan& step : steps) options_.sender->SendStep(std::move(step));
    for (const Delivery& delivery : deliveries) Deliver(delivery);
    if (on_broken) {
      broken_told = true;
      on_broken(health);
    }
    lock.lock();
    delivering_ = false;
    drained_.notify_all();
  }
}

}  // namespace whalepod
