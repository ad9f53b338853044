// The ranks of one epoch: who they are, how far they have come, and what ends them. The protocol is
// docs/life-of-a-request.md. Knows no gRPC: streams are WorkerLinks (control_server.h makes them).
//
// One epoch a Fleet: it forms, is ready, and drains or fails. The first cause of failure wins;
// it names rank, worker and phase, every other rank gets AbortCommand, and no call succeeds after.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/fleet/step_collector.h"
#include "coordinator/sched/engine.h"
#include "whalepod/v1/control.pb.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

// One worker's stream, seen from the coordinator. Thread-safe; calls never block or call back.
class WorkerLink {
 public:
  using Message = std::shared_ptr<const v1::AttachResponse>;
  virtual ~WorkerLink() = default;
  virtual void Send(Message message) = 0;
  // Ahead of all that is queued, which is dropped.
  virtual void SendUrgent(Message message) = 0;
  // Ends the stream once what is queued has been sent.
  virtual void Close(const absl::Status& status) = 0;
};

struct FleetOptions {
  int ranks = 1;
  uint64_t epoch = 1;
  Duration join_timeout = std::chrono::seconds(60);
  Duration plan_timeout = std::chrono::seconds(10);
  Duration load_timeout = std::chrono::seconds(600);
  Duration connect_timeout = std::chrono::seconds(15);
  Duration warm_timeout = std::chrono::seconds(30);
  Duration heartbeat_timeout = std::chrono::milliseconds(1500);
  // A step may take max(step_stall, 10 x predicted).
  Duration step_stall = std::chrono::seconds(5);
  std::function<Duration(const v1::StepPlan&)> predict;  // empty: 0
  // A rank that reports that a peer failed it is blamed only if no other rank is found dead
  // within this time.
  Duration blame_grace = std::chrono::milliseconds(700);
  // The monitor looks this often. If it comes this much late, the whole process was paused, and
  // the ranks are given that time as well.
  Duration tick = std::chrono::milliseconds(20);
  Duration own_pause = std::chrono::milliseconds(500);
  const Clock* clock = Clock::Real();
};

class Fleet : public StepSender {
 public:
  explicit Fleet(FleetOptions options);
  // Aborts what is left.
  ~Fleet() override;
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // --- Bring-up, from one thread, in this order. Each waits until all ranks have finished the
  // phase; DEADLINE_EXCEEDED names those that have not and what they last reported.

  // What the ranks said of themselves, by rank.
  absl::StatusOr<std::vector<v1::Hello>> WaitJoined();
  // Sends each rank its part; all must attest the plan's root. The plan must have the fleet's
  // number of ranks.
  absl::Status Plan(const v1::ShardingPlan& plan);
  absl::Status Load();
  absl::Status Connect();
  // Runs step 1; the engine's first is 2.
  absl::Status Warm();
  static constexpr uint64_t kFirstStep = 2;

  // --- Steps, once Warm has returned.

  // Answers to steps, in order, each once. Called with a lock held: must not call the fleet.
  void SetOnStep(std::function<void(StepOutcome)> callback);
  // Called once, from a thread of the fleet's own, when the epoch has failed.
  void SetOnFailed(std::function<void(const absl::Status&)> callback);
  void SendStep(v1::StepPlan step) override;

  // Ends the epoch: every rank is told to abort. The first status given is kept.
  void Abort(const absl::Status& status);
  // Tells ranks to leave after the steps they have; false if some are still there after `timeout`.
  bool Drain(const std::string& reason, Duration timeout);
  // Waits until every stream has ended, but not for ranks that have fallen silent; closes those
  // left after `timeout`. True if there were none.
  bool WaitGone(Duration timeout);

  absl::Status Health() const;
  uint64_t epoch() const { return options_.epoch; }
  // Fills state, message, epoch and ranks.
  void FillStatus(v1::GetStatusResponse* status) const;

  // --- From the streams.

  // The first message. The rank given, or why the worker is refused (which hurts nobody else):
  // FAILED_PRECONDITION (protocol), ABORTED (build hash or instruction path: both values),
  // ALREADY_EXISTS (worker or rank taken), RESOURCE_EXHAUSTED (all ranks are there),
  // INVALID_ARGUMENT (rank out of range, no name, a text or memory of absurd size), UNAVAILABLE
  // (the epoch is over).
  absl::StatusOr<int> OnHello(std::shared_ptr<WorkerLink> link, const v1::Hello& hello);
  void OnMessage(int rank, v1::AttachRequest message);
  void OnClosed(int rank);

 private:
  struct RankState {
    std::shared_ptr<WorkerLink> link;  // null: nobody yet
    v1::Hello hello;
    bool closed = false;
    v1::Phase phase = v1::PHASE_UNSPECIFIED;  // the last one finished
    bool attested = false;
    bool warm_answer = false, warm_done = false;
    bool failure_reported = false;
    std::string rendezvous;
    v1::LoadProgress load;
    std::vector<v1::LedgerItem> actual;  // bytes; told with LOADED
    v1::Heartbeat heartbeat;
    TimePoint last_heard{};
    TimePoint last_load_log{};
    std::string report = "nothing";  // for people
    TimePoint report_time{};
  };
  struct Suspicion {
    int rank = 0;
    absl::Status status;
    TimePoint due{};
  };

  void Monitor();
  void ForgiveLocked(Duration pause, TimePoint now);
  void CheckHeartbeatsLocked(TimePoint now);
  void CheckStepsLocked(TimePoint now);
  void FailLocked(absl::Status status);
  void ReportLocked(int rank, std::string what);
  absl::Status CheckHelloLocked(const v1::Hello& hello) const;
  absl::StatusOr<int> AssignRankLocked(const v1::Hello& hello) const;

  void OnAttestationLocked(int rank, const v1::PlanAttestation& attestation);
  void OnLoadProgressLocked(int rank, const v1::LoadProgress& progress);
  void OnPhaseDoneLocked(int rank, v1::PhaseDone done);
  void OnStepResultLocked(int rank, v1::StepResult result);
  void OnFailureLocked(int rank, const v1::RankFailure& failure);
  void FillMemoryLocked(int rank, v1::RankStatus* status) const;
  void CheckActualLocked(int rank, const v1::PhaseDone& done) const;

  void BeginPhaseLocked(v1::Phase phase, Duration timeout);
  absl::Status WaitPhase(std::unique_lock<std::mutex>& lock);
  absl::Status PhaseLateLocked() const;
  void SendPartLocked(int rank);
  void BroadcastLocked(const WorkerLink::Message& message);
  std::string NameLocked(int rank) const;
  int CountDoneLocked(v1::Phase phase) const;
  bool AllClosedLocked() const;

  const FleetOptions options_;
  mutable std::mutex mu_;
  std::condition_variable changed_;
  std::vector<RankState> ranks_;
  v1::ShardingPlan plan_;
  std::string build_hash_, instruction_path_;
  v1::Phase phase_ = v1::PHASE_JOINED;  // the one being waited for; READY: past all
  TimePoint phase_begin_{}, phase_deadline_ = kNoDeadline;
  std::optional<StepCollector> collector_;
  std::function<void(StepOutcome)> on_step_;
  std::function<void(const absl::Status&)> on_failed_;
  absl::Status health_;
  std::optional<Suspicion> suspicion_;
  bool failed_told_ = false;
  bool draining_ = false;
  bool stopping_ = false;
  std::thread monitor_;
};

// "LOADED" for PHASE_LOADED.
std::string PhaseName(v1::Phase phase);

}  // namespace whalepod
