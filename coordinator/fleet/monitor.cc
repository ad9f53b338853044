// Steps, and what ends an epoch: deadlines, silence, failures, drain.
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/fleet/fleet.h"

namespace whalepod {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void Fleet::SetOnStep(std::function<void(StepOutcome)> callback) {
  std::lock_guard lock(mu_);
  on_step_ = std::move(callback);
}

void Fleet::SetOnFailed(std::function<void(const absl::Status&)> callback) {
  std::lock_guard lock(mu_);
  on_failed_ = std::move(callback);
  changed_.notify_all();
}

void Fleet::SendStep(v1::StepPlan step) {
  std::lock_guard lock(mu_);
  if (!health_.ok() || phase_ != v1::PHASE_READY) return;
  step.set_epoch(options_.epoch);
  const Duration predicted = options_.predict ? options_.predict(step) : Duration(0);
  const uint64_t tokens =
      std::accumulate(step.group_tokens().begin(), step.group_tokens().end(), uint64_t{0});
  collector_->Expect(step.step(), std::max(options_.step_stall, 10 * predicted),
                     options_.clock->Now(), tokens);
  auto message = std::make_shared<v1::AttachResponse>();
  *message->mutable_step() = std::move(step);
  BroadcastLocked(message);
}

void Fleet::Monitor() {
  std::unique_lock lock(mu_);
  TimePoint last = options_.clock->Now();
  while (!stopping_) {
    // Real time: an injected clock decides what is late, not how often to look.
    changed_.wait_for(lock, options_.tick, [this] {
      return stopping_ || (!health_.ok() && on_failed_ && !failed_told_);
    });
    const TimePoint now = options_.clock->Now();
    if (now - last > options_.own_pause) ForgiveLocked(now - last, now);
    last = now;
    if (health_.ok()) {
      // All may have finished in time, and the thread that waits for them not have run yet.
      const bool late = now >= phase_deadline_ && CountDoneLocked(phase_) < options_.ranks;
      if (late) FailLocked(PhaseLateLocked());
      CheckHeartbeatsLocked(now);
      CheckStepsLocked(now);
    }
    if (!health_.ok() && on_failed_ && !failed_told_) {
      failed_told_ = true;
      const auto on_failed = on_failed_;
      const absl::Status status = health_;
      lock.unlock();
      on_failed(status);
      lock.lock();
    }
  }
}

// This process stood still for `pause`; what the ranks said meanwhile has yet to be read.
void Fleet::ForgiveLocked(Duration pause, TimePoint now) {
  for (RankState& state : ranks_) state.last_heard = std::min(now, state.last_heard + pause);
  if (phase_deadline_ != kNoDeadline) phase_deadline_ += pause;
  if (suspicion_) suspicion_->due += pause;
  if (collector_) collector_->Forgive(pause, now);
}

void Fleet::CheckHeartbeatsLocked(TimePoint now) {
  if (!health_.ok()) return;
  bool someone_is_silent = false;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const RankState& state = ranks_[rank];
    if (state.link == nullptr || state.closed) continue;
    const Duration silence = now - state.last_heard;
    if (silence >= options_.heartbeat_timeout) {
      const LogScope scope(LogField{"rank", int64_t{rank}});
      std::string also;
      if (suspicion_) also = absl::StrCat("; before that ", suspicion_->status.message());
      FailLocked(absl::UnavailableError(absl::StrCat(
          NameLocked(rank), " was lost in phase ", PhaseName(phase_), ": no heartbeat for ",
          absl::StrFormat("%.1f", Seconds(silence)), " s", also)));
      return;
    }
    someone_is_silent =
        someone_is_silent || (silence * 3 >= options_.heartbeat_timeout && !state.failure_reported);
  }
  // A rank that is about to be found dead is a better cause than one that complains of it.
  if (suspicion_ && now >= suspicion_->due && !someone_is_silent) FailLocked(suspicion_->status);
}

void Fleet::CheckStepsLocked(TimePoint now) {
  if (!collector_ || !health_.ok()) return;
  const std::vector<int> late = collector_->Late(now);
  if (late.empty()) return;
  std::vector<std::string> names;
  for (const int rank : late) {
    const v1::Heartbeat& heartbeat = ranks_[rank].heartbeat;
    names.push_back(absl::StrCat(NameLocked(rank), " (runs step ", heartbeat.step_running(),
                                 ", has done ", heartbeat.step_done(), ")"));
  }
  FailLocked(absl::DeadlineExceededError(
      absl::StrCat("step ", collector_->OldestStep(), " stalled: no answer within ",
                   absl::StrFormat("%.1f", Seconds(collector_->OldestLimit())), " s from ",
                   absl::StrJoin(names, "; "))));
}

void Fleet::FailLocked(absl::Status status) {
  if (!health_.ok()) return;
  health_ = std::move(status);
  if (absl::IsCancelled(health_)) {
    spdlog::info("epoch {}: ended: {}", options_.epoch, health_.ToString());
  } else {
    spdlog::error("epoch {}: {}", options_.epoch, health_.ToString());
  }
  auto message = std::make_shared<v1::AttachResponse>();
  message->mutable_abort()->set_epoch(options_.epoch);
  message->mutable_abort()->set_reason(std::string(health_.message()));
  for (const RankState& state : ranks_) {
    if (state.link != nullptr && !state.closed) state.link->SendUrgent(message);
  }
  changed_.notify_all();
}

void Fleet::Abort(const absl::Status& status) {
  std::lock_guard lock(mu_);
  if (AllClosedLocked() && draining_) return;  // nobody is left to tell
  FailLocked(status);
}

bool Fleet::AllClosedLocked() const {
  return std::all_of(ranks_.begin(), ranks_.end(),
                     [](const RankState& r) { return r.link == nullptr || r.closed; });
}

bool Fleet::Drain(const std::string& reason, Duration timeout) {
  std::unique_lock lock(mu_);
  draining_ = true;
  auto message = std::make_shared<v1::AttachResponse>();
  message->mutable_drain()->set_reason(reason);
  BroadcastLocked(message);
  changed_.notify_all();
  return changed_.wait_for(lock, timeout, [this] { return AllClosedLocked(); });
}

bool Fleet::WaitGone(Duration timeout) {
  std::unique_lock lock(mu_);
  // Real time, as in Monitor. A rank that has fallen silent is not waited for.
  const auto limit = std::chrono::steady_clock::now() + timeout;
  const auto silent = [this](const RankState& state) {
    return options_.clock->Now() - state.last_heard >= options_.heartbeat_timeout;
  };
  const auto expected = [&] {
    return std::any_of(ranks_.begin(), ranks_.end(), [&](const RankState& state) {
      return state.link != nullptr && !state.closed && !silent(state);
    });
  };
  while (expected() && std::chrono::steady_clock::now() < limit) {
    changed_.wait_for(lock, options_.tick);
  }
  if (AllClosedLocked()) return true;
  for (const RankState& state : ranks_) {
    if (state.link != nullptr && !state.closed) {
      state.link->Close(health_.ok() ? absl::UnavailableError("the coordinator is leaving")
                                     : health_);
    }
  }
  return false;
}

}  // namespace whalepod
