// Membership, and what ranks say.
#include "coordinator/fleet/fleet.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "proto/plan/hash.h"

namespace whalepod {
namespace {

// Of one rank. Sums over thousands of them stay far from overflow.
constexpr int64_t kMostMemory = int64_t{1} << 48;
// Of each text of a Hello: they go to logs and error messages.
constexpr size_t kMostText = 256;

}  // namespace

std::string PhaseName(v1::Phase phase) {
  const std::string& name = v1::Phase_Name(phase);
  return absl::StartsWith(name, "PHASE_") ? name.substr(6) : absl::StrCat("phase ", phase);
}

Fleet::Fleet(FleetOptions options) : options_(std::move(options)), ranks_(options_.ranks) {
  CHECK_GT(options_.ranks, 0);
  monitor_ = std::thread([this] { Monitor(); });
}

Fleet::~Fleet() {
  Abort(absl::CancelledError("the coordinator is leaving"));
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
  }
  changed_.notify_all();
  monitor_.join();
}

std::string Fleet::NameLocked(int rank) const {
  const RankState& state = ranks_[rank];
  if (state.link == nullptr) return absl::StrCat("rank ", rank);
  return absl::StrCat("rank ", rank, " (worker ", state.hello.worker(), " on ", state.hello.host(),
                      ", pid ", state.hello.pid(), ")");
}

void Fleet::ReportLocked(int rank, std::string what) {
  ranks_[rank].report = std::move(what);
  ranks_[rank].report_time = options_.clock->Now();
}

absl::Status Fleet::CheckHelloLocked(const v1::Hello& hello) const {
  if (!health_.ok())
    return absl::UnavailableError(absl::StrCat("the deployment is over: ", health_.message()));
  if (draining_) return absl::UnavailableError("the deployment is shutting down");
  for (const std::string* text : {&hello.worker(), &hello.incarnation(), &hello.build_hash(),
                                  &hello.instruction_path(), &hello.host(), &hello.address()}) {
    if (text->size() <= kMostText) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("Hello of worker \"", hello.worker().substr(0, kMostText), "\" has a text of ",
                     text->size(), " bytes, at most ", kMostText, " are taken"));
  }
  if (hello.protocol_version() != v1::PROTOCOL_VERSION_CURRENT) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker ", hello.worker(), " speaks protocol version ", hello.protocol_version(),
        ", the coordinator ", static_cast<int>(v1::PROTOCOL_VERSION_CURRENT)));
  }
  if (hello.worker().empty()) return absl::InvalidArgumentError("Hello without a worker name");
  if (hello.memory_bytes() > kMostMemory) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker ", hello.worker(), " says it has ", hello.memory_bytes(),
                     " bytes of memory, believed are up to ", kMostMemory));
  }
  const bool first = std::all_of(ranks_.begin(), ranks_.end(),
                                 [](const RankState& r) { return r.link == nullptr; });
  if (!first && hello.build_hash() != build_hash_) {
    return absl::AbortedError(absl::StrCat("worker ", hello.worker(), " is build ",
                                           hello.build_hash(), ", this epoch's is ", build_hash_));
  }
  if (!first && hello.instruction_path() != instruction_path_) {
    return absl::AbortedError(absl::StrCat("worker ", hello.worker(), " computes with ",
                                           hello.instruction_path(), ", this epoch with ",
                                           instruction_path_));
  }
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (ranks_[rank].link != nullptr && ranks_[rank].hello.worker() == hello.worker()) {
      return absl::AlreadyExistsError(absl::StrCat(
          "worker ", hello.worker(), " (incarnation ", hello.incarnation(), ") is already here as ",
          NameLocked(rank), ", incarnation ", ranks_[rank].hello.incarnation()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Fleet::AssignRankLocked(const v1::Hello& hello) const {
  const int preferred = hello.preferred_rank();
  if (preferred >= options_.ranks) {
    return absl::InvalidArgumentError(absl::StrCat("worker ", hello.worker(), " asks for rank ",
                                                   preferred, ", there are ", options_.ranks));
  }
  if (preferred >= 0) {
    if (ranks_[preferred].link == nullptr) return preferred;
    return absl::AlreadyExistsError(absl::StrCat("worker ", hello.worker(), " asks for ",
                                                 NameLocked(preferred), ", which is taken"));
  }
  for (int rank = 0; rank < options_.ranks; ++rank) {
    if (ranks_[rank].link == nullptr) return rank;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("worker ", hello.worker(), ": all ", options_.ranks, " ranks are taken"));
}

absl::StatusOr<int> Fleet::OnHello(std::shared_ptr<WorkerLink> link, const v1::Hello& hello) {
  std::lock_guard lock(mu_);
  RETURN_IF_ERROR(CheckHelloLocked(hello));
  ASSIGN_OR_RETURN(const int rank, AssignRankLocked(hello));
  build_hash_ = hello.build_hash();
  instruction_path_ = hello.instruction_path();
  RankState& state = ranks_[rank];
  state.link = std::move(link);
  state.hello = hello;
  state.phase = v1::PHASE_JOINED;
  state.last_heard = options_.clock->Now();
  ReportLocked(rank, "that it joined");
  const LogScope scope(LogField{"rank", int64_t{rank}});
  spdlog::info("epoch {}: {} joined ({}, {} of {})", options_.epoch, NameLocked(rank),
               hello.instruction_path(), CountDoneLocked(v1::PHASE_JOINED), options_.ranks);
  changed_.notify_all();
  return rank;
}

void Fleet::OnMessage(int rank, v1::AttachRequest message) {
  const LogScope scope(LogField{"rank", int64_t{rank}});
  std::lock_guard lock(mu_);
  ranks_[rank].last_heard = options_.clock->Now();
  // Nothing said in another epoch counts. A heartbeat or failure before the plan has none yet.
  const auto ours = [this](uint64_t epoch) { return epoch == options_.epoch; };
  switch (message.message_case()) {
    case v1::AttachRequest::kAttestation:
      if (ours(message.attestation().epoch())) OnAttestationLocked(rank, message.attestation());
      break;
    case v1::AttachRequest::kLoadProgress:
      if (ours(message.load_progress().epoch()))
        OnLoadProgressLocked(rank, message.load_progress());
      break;
    case v1::AttachRequest::kPhaseDone:
      if (ours(message.phase_done().epoch())) {
        OnPhaseDoneLocked(rank, std::move(*message.mutable_phase_done()));
      }
      break;
    case v1::AttachRequest::kStepResult:
      if (ours(message.step_result().epoch())) {
        OnStepResultLocked(rank, std::move(*message.mutable_step_result()));
      }
      break;
    case v1::AttachRequest::kHeartbeat:
      ranks_[rank].heartbeat = message.heartbeat();
      break;
    case v1::AttachRequest::kFailure:
      if (message.failure().epoch() == 0 || ours(message.failure().epoch())) {
        OnFailureLocked(rank, message.failure());
      }
      break;
    case v1::AttachRequest::kHello:
    case v1::AttachRequest::MESSAGE_NOT_SET:
      FailLocked(absl::InternalError(
          absl::StrCat(NameLocked(rank), " sent a second hello or an unknown message")));
  }
}

void Fleet::OnClosed(int rank) {
  const LogScope scope(LogField{"rank", int64_t{rank}});
  std::lock_guard lock(mu_);
  RankState& state = ranks_[rank];
  if (state.closed) return;
  state.closed = true;
  changed_.notify_all();
  if (draining_ || !health_.ok()) {
    spdlog::info("epoch {}: {} left", options_.epoch, NameLocked(rank));
    return;
  }
  if (state.failure_reported) return;  // it said why; see OnFailureLocked
  std::string also;
  if (suspicion_) also = absl::StrCat("; before that ", suspicion_->status.message());
  FailLocked(absl::UnavailableError(absl::StrCat(NameLocked(rank), " was lost in phase ",
                                                 PhaseName(phase_), ": its stream ended", also)));
}

void Fleet::OnAttestationLocked(int rank, const v1::PlanAttestation& attestation) {
  if (phase_ != v1::PHASE_PLANNED || rank >= plan_.ranks_size()) return;
  const bool root = attestation.plan_hash() == plan_.hash();
  if (!root || attestation.part_hash() != plan_.ranks(rank).hash()) {
    FailLocked(absl::DataLossError(
        absl::StrCat(NameLocked(rank), " attests ", root ? "part " : "plan ",
                     HexOf(root ? attestation.part_hash() : attestation.plan_hash()), ", sent was ",
                     HexOf(root ? plan_.ranks(rank).hash() : plan_.hash()))));
    return;
  }
  ranks_[rank].attested = true;
  ReportLocked(rank, "that it holds the plan");
}

void Fleet::OnLoadProgressLocked(int rank, const v1::LoadProgress& progress) {
  RankState& state = ranks_[rank];
  state.load = progress;
  const TimePoint now = options_.clock->Now();
  // From a peer: what is no number of bytes is shown as none.
  const double told = progress.bytes_per_second();
  const int64_t rate = told > 0 && told < 1e15 ? static_cast<int64_t>(told) : 0;
  const std::string text =
      absl::StrCat(FormatBytes(progress.bytes_done()), " of ", FormatBytes(progress.bytes_total()),
                   " loaded at ", FormatBytes(rate), "/s");
  ReportLocked(rank, text);
  const bool complete = progress.bytes_done() >= progress.bytes_total();
  if (complete || now - state.last_load_log >= std::chrono::seconds(1)) {
    state.last_load_log = now;
    spdlog::info("epoch {}: rank {}: {}", options_.epoch, rank, text);
  }
}

void Fleet::OnPhaseDoneLocked(int rank, v1::PhaseDone done) {
  RankState& state = ranks_[rank];
  if (!health_.ok()) return;
  if (done.phase() != phase_ || state.phase >= phase_ ||
      (phase_ == v1::PHASE_PLANNED && !state.attested)) {
    FailLocked(absl::InternalError(absl::StrCat(
        NameLocked(rank), " says it finished phase ", PhaseName(done.phase()), " while in ",
        PhaseName(state.phase), ", the epoch waits for ", PhaseName(phase_))));
    return;
  }
  if (phase_ == v1::PHASE_PLANNED) state.rendezvous = std::move(*done.mutable_rendezvous());
  if (phase_ == v1::PHASE_LOADED) {
    CheckActualLocked(rank, done);
    state.actual.assign(done.actual().begin(), done.actual().end());
  }
  if (phase_ == v1::PHASE_WARMED) {
    state.warm_done = true;
    if (!state.warm_answer) return;
  }
  state.phase = phase_;
  ReportLocked(rank, absl::StrCat("that it finished phase ", PhaseName(phase_)));
  changed_.notify_all();
}

// What the plan promised is what the rank has; said aloud where it is not.
void Fleet::CheckActualLocked(int rank, const v1::PhaseDone& done) const {
  for (const v1::LedgerItem& actual : done.actual()) {
    for (const v1::LedgerItem& planned : plan_.ranks(rank).ledger().items()) {
      if (planned.kind() != actual.kind() || planned.name() != actual.name() ||
          planned.kind() == v1::LEDGER_KIND_RESERVE || planned.bytes() == actual.bytes()) {
        continue;
      }
      spdlog::warn("epoch {}: rank {}: {} takes {} bytes, planned were {}", options_.epoch, rank,
                   actual.name(), FormatCount(actual.bytes()), FormatCount(planned.bytes()));
    }
  }
}

void Fleet::OnStepResultLocked(int rank, v1::StepResult result) {
  if (!collector_ || !health_.ok()) return;
  RankState& state = ranks_[rank];
  if (result.step() == kFirstStep - 1) {
    state.warm_answer = true;
    if (state.warm_done) {
      state.phase = v1::PHASE_WARMED;
      changed_.notify_all();
    }
  }
  absl::StatusOr<std::optional<StepOutcome>> outcome =
      collector_->Add(rank, std::move(result), options_.clock->Now());
  if (!outcome.ok()) {
    FailLocked(Annotate(outcome.status(), NameLocked(rank)));
    return;
  }
  if (outcome->has_value() && (*outcome)->step >= kFirstStep && on_step_) {
    on_step_(**std::move(outcome));
  }
}

void Fleet::OnFailureLocked(int rank, const v1::RankFailure& failure) {
  RankState& state = ranks_[rank];
  state.failure_reported = true;
  ReportLocked(rank, absl::StrCat("failure: ", failure.message()));
  const absl::StatusCode code = static_cast<absl::StatusCode>(failure.code());
  const absl::Status status = absl::UnavailableError(
      absl::StrCat(NameLocked(rank), " failed in phase ", PhaseName(failure.phase()), ": ",
                   absl::StatusCodeToString(code), ": ", failure.message()));
  // These are what a healthy rank meets when a peer is gone. The peer's own stream or heartbeat
  // tells within moments; it is the one to name.
  const bool peer = code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kAborted ||
                    code == absl::StatusCode::kDeadlineExceeded ||
                    code == absl::StatusCode::kCancelled;
  if (!peer) return FailLocked(status);
  if (!suspicion_) {
    suspicion_ = Suspicion{rank, status, options_.clock->Now() + options_.blame_grace};
  }
}

int Fleet::CountDoneLocked(v1::Phase phase) const {
  return static_cast<int>(std::count_if(ranks_.begin(), ranks_.end(), [phase](const RankState& r) {
    return r.link != nullptr && r.phase >= phase;
  }));
}

absl::Status Fleet::Health() const {
  std::lock_guard lock(mu_);
  return health_;
}

void Fleet::FillMemoryLocked(int rank, v1::RankStatus* status) const {
  if (rank >= plan_.ranks_size()) return;  // no plan yet
  const std::vector<v1::LedgerItem>& actual = ranks_[rank].actual;
  for (const v1::LedgerItem& planned : plan_.ranks(rank).ledger().items()) {
    v1::MemoryStatus* item = status->add_memory();
    item->set_name(planned.name());
    item->set_planned_bytes(planned.bytes());
    const auto found = std::find_if(actual.begin(), actual.end(), [&](const v1::LedgerItem& one) {
      return one.kind() == planned.kind() && one.name() == planned.name();
    });
    if (found != actual.end()) item->set_actual_bytes(found->bytes());
  }
}

void Fleet::FillStatus(v1::GetStatusResponse* status) const {
  std::lock_guard lock(mu_);
  status->set_epoch(options_.epoch);
  if (!health_.ok()) {
    status->set_state("failed");
    status->set_message(std::string(health_.message()));
  } else if (draining_) {
    status->set_state("stopping");
  } else if (phase_ == v1::PHASE_READY) {
    status->set_state("ready");
  } else {
    status->set_state("starting");
    status->set_message(absl::StrCat("phase ", PhaseName(phase_), ": ", CountDoneLocked(phase_),
                                     " of ", options_.ranks, " ranks"));
  }
  const TimePoint now = options_.clock->Now();
  for (int rank = 0; rank < options_.ranks; ++rank) {
    const RankState& state = ranks_[rank];
    v1::RankStatus* out = status->add_ranks();
    out->set_rank(rank);
    if (state.link == nullptr) {
      out->set_phase("MISSING");
      continue;
    }
    out->set_worker(state.hello.worker());
    out->set_host(state.hello.host());
    out->set_pid(state.hello.pid());
    out->set_phase(state.closed                ? "LOST"
                   : phase_ == v1::PHASE_READY ? "READY"
                                               : PhaseName(state.phase));
    out->set_load_bytes_done(state.load.bytes_done());
    out->set_load_bytes_total(state.load.bytes_total());
    out->set_load_bytes_per_second(state.load.bytes_per_second());
    out->set_step_done(state.heartbeat.step_done());
    out->set_heartbeat_age_ms(static_cast<uint32_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(now - state.last_heard).count()));
    FillMemoryLocked(rank, out);
  }
}

}  // namespace whalepod
