// From nobody to ready: the coordinator's side of each phase.
#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/fleet/fleet.h"
#include "proto/plan/hash.h"
#include "proto/plan/layout.h"

namespace whalepod {
namespace {

constexpr size_t kChunkBytes = 768 * 1024;  // under 1 MiB with what is around it

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

WorkerLink::Message Share(v1::AttachResponse message) {
  return std::make_shared<const v1::AttachResponse>(std::move(message));
}

// 128 random bits: nobody finds this epoch's shared memory by guessing its name.
absl::StatusOr<std::string> RandomSession() {
  unsigned char bytes[16];
  if (::getrandom(bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes))) {
    return ErrnoStatus(errno, "getrandom");
  }
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes), sizeof(bytes)));
}

}  // namespace

void Fleet::BeginPhaseLocked(v1::Phase phase, Duration timeout) {
  phase_ = phase;
  phase_begin_ = options_.clock->Now();
  phase_deadline_ = phase_begin_ + timeout;
}

absl::Status Fleet::WaitPhase(std::unique_lock<std::mutex>& lock) {
  changed_.wait(lock, [this] {
    return !health_.ok() || draining_ || CountDoneLocked(phase_) == options_.ranks;
  });
  phase_deadline_ = kNoDeadline;
  RETURN_IF_ERROR(health_);
  if (draining_) return absl::CancelledError("shut down while starting");
  spdlog::info("epoch {}: all {} ranks {} after {:.2f} s", options_.epoch, options_.ranks,
               PhaseName(phase_), Seconds(options_.clock->Now() - phase_begin_));
  return absl::OkStatus();
}

absl::Status Fleet::PhaseLateLocked() const {
  const TimePoint now = options_.clock->Now();
  std::vector<std::string> missing;
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const RankState& state = ranks_[rank];
    if (state.link != nullptr && state.phase >= phase_) continue;
    missing.push_back(state.link == nullptr
                          ? absl::StrCat("rank ", rank, " (no worker)")
                          : absl::StrCat(NameLocked(rank), ", last report ",
                                         absl::StrFormat("%.1f", Seconds(now - state.report_time)),
                                         " s ago: ", state.report));
  }
  return absl::DeadlineExceededError(
      absl::StrCat("phase ", PhaseName(phase_), " not finished within ",
                   absl::StrFormat("%.1f", Seconds(now - phase_begin_)), " s by ", missing.size(),
                   " of ", options_.ranks, " ranks: ", absl::StrJoin(missing, "; ")));
}

absl::StatusOr<std::vector<v1::Hello>> Fleet::WaitJoined() {
  std::unique_lock lock(mu_);
  BeginPhaseLocked(v1::PHASE_JOINED, options_.join_timeout);
  RETURN_IF_ERROR(WaitPhase(lock));
  std::vector<v1::Hello> hellos;
  for (const RankState& state : ranks_) hellos.push_back(state.hello);
  return hellos;
}

absl::Status Fleet::Plan(const v1::ShardingPlan& plan) {
  std::unique_lock lock(mu_);
  if (plan.ranks_size() != options_.ranks || WorldSize(plan.layout()) != options_.ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("a plan of ", plan.ranks_size(), " ranks for ", options_.ranks, " workers"));
  }
  plan_ = plan;
  collector_.emplace(plan_.layout());
  BeginPhaseLocked(v1::PHASE_PLANNED, options_.plan_timeout);
  for (int rank = 0; rank < options_.ranks; ++rank) SendPartLocked(rank);
  return WaitPhase(lock);
}

void Fleet::SendPartLocked(int rank) {
  const std::string bytes = MakePlanPart(plan_, rank).SerializeAsString();
  for (size_t begin = 0; begin == 0 || begin < bytes.size(); begin += kChunkBytes) {
    v1::AttachResponse message;
    v1::PlanChunk* chunk = message.mutable_plan_chunk();
    chunk->set_epoch(options_.epoch);
    chunk->set_rank(rank);
    chunk->set_data(bytes.substr(begin, kChunkBytes));
    chunk->set_last(begin + kChunkBytes >= bytes.size());
    ranks_[rank].link->Send(Share(std::move(message)));
  }
}

void Fleet::BroadcastLocked(const WorkerLink::Message& message) {
  for (const RankState& state : ranks_) {
    if (state.link != nullptr && !state.closed) state.link->Send(message);
  }
}

absl::Status Fleet::Load() {
  std::unique_lock lock(mu_);
  BeginPhaseLocked(v1::PHASE_LOADED, options_.load_timeout);
  v1::AttachResponse message;
  message.mutable_load()->set_epoch(options_.epoch);
  BroadcastLocked(Share(std::move(message)));
  return WaitPhase(lock);
}

absl::Status Fleet::Connect() {
  ASSIGN_OR_RETURN(const std::string session, RandomSession());
  std::unique_lock lock(mu_);
  BeginPhaseLocked(v1::PHASE_CONNECTED, options_.connect_timeout);
  v1::AttachResponse message;
  v1::ConnectCommand* connect = message.mutable_connect();
  connect->set_epoch(options_.epoch);
  connect->set_session(session);
  connect->set_timeout_ms(
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.connect_timeout).count());
  for (const RankState& state : ranks_) {
    connect->add_rendezvous(state.rendezvous);
    connect->add_hosts(state.hello.host());
    connect->add_addresses(state.hello.address());
  }
  BroadcastLocked(Share(std::move(message)));
  return WaitPhase(lock);
}

absl::Status Fleet::Warm() {
  std::unique_lock lock(mu_);
  BeginPhaseLocked(v1::PHASE_WARMED, options_.warm_timeout);
  v1::AttachResponse message;
  v1::StepPlan* step = message.mutable_step();
  step->set_epoch(options_.epoch);
  step->set_step(kFirstStep - 1);
  for (int group = 0; group < std::max(1, plan_.layout().dp()); ++group) step->add_group_tokens(0);
  // The phase's deadline speaks for it: a first step may touch cold memory.
  collector_->Expect(kFirstStep - 1, options_.warm_timeout * 2, options_.clock->Now());
  BroadcastLocked(Share(std::move(message)));
  RETURN_IF_ERROR(WaitPhase(lock));
  phase_ = v1::PHASE_READY;
  spdlog::info("epoch {}: ready", options_.epoch);
  return absl::OkStatus();
}

}  // namespace whalepod
