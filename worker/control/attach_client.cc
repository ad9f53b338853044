#include "worker/control/attach_client.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "whalepod/v1/control.grpc.pb.h"
#include "worker/control/command_queue.h"

namespace whalepod {
namespace {

using Stream = grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>;

std::shared_ptr<grpc::Channel> Dial(const std::string& target) {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(64 << 20);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // what one attempt to connect may take
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A coordinator whose host is gone, or that stands still for good, must not keep us for ever.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), args);
}

// Never empty: some errors of gRPC's own have a code and no message.
std::string Describe(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message())
      .ToString();
}

// One stream and the three threads around it. Held by shared pointers, because an executing thread
// that does not return in time is left behind until the process ends.
class Session : public std::enable_shared_from_this<Session> {
 public:
  explicit Session(const AttachOptions& options)
      : options_(options), channel_(Dial(options.coordinator)) {}

  AttachOutcome Run() {
    const auto deadline =
        std::chrono::system_clock::now() +
        std::chrono::duration_cast<std::chrono::microseconds>(options_.dial_timeout);
    if (!channel_->WaitForConnected(deadline)) {
      return {.exit = WorkerExit::kLost,
              .reason = absl::StrCat("no coordinator answers at ", options_.coordinator)};
    }
    stub_ = v1::ControlService::NewStub(channel_);
    stream_ = stub_->Attach(&context_);
    v1::AttachRequest hello;
    *hello.mutable_hello() = options_.hello;
    Send(hello);
    std::thread executing([self = shared_from_this()] { self->Execute(); });
    std::thread ticking([this] { Tick(); });

    Read();
    // Whoever still waits for the stream or a peer is set free.
    queue_.Close();
    context_.TryCancel();
    if (!drained_) options_.rank->Abort(Reason());
    {
      std::lock_guard<std::mutex> lock(mu_);
      stop_ticking_ = true;
    }
    changed_.notify_all();
    ticking.join();
    const bool settled = JoinExecuting(executing);
    return {.exit = Exit(), .reason = Reason(), .settled = settled};
  }

 private:
  // ---- the reading thread ----

  void Read() {
    v1::AttachResponse response;
    while (stream_->Read(&response)) {
      if (response.has_abort()) {
        const uint64_t epoch = epoch_;
        if (epoch != 0 && response.abort().epoch() != 0 && response.abort().epoch() != epoch) {
          spdlog::warn("an abort of epoch {} reached epoch {}: ignored", response.abort().epoch(),
                       epoch);
          continue;
        }
        SetOutcome(WorkerExit::kAborted, response.abort().reason());
        return;
      }
      if (const absl::Status status = Queue(std::move(response)); !status.ok()) Fail(status);
    }
    if (drained_ || failed_) return;
    const grpc::Status status = stream_->Finish();
    SetOutcome(WorkerExit::kLost,
               status.ok() ? "the coordinator closed the stream"
                           : absl::StrCat("the control stream ended: ", Describe(status)));
  }

  absl::Status Queue(v1::AttachResponse response) {
    switch (response.message_case()) {
      case v1::AttachResponse::kPlanChunk: {
        ASSIGN_OR_RETURN(std::optional<PlanReceived> plan, assembler_.Add(response.plan_chunk()));
        return plan.has_value() ? queue_.Push(*std::move(plan)) : absl::OkStatus();
      }
      case v1::AttachResponse::kLoad:
        return queue_.Push(std::move(*response.mutable_load()));
      case v1::AttachResponse::kConnect:
        return queue_.Push(std::move(*response.mutable_connect()));
      case v1::AttachResponse::kStep:
        return queue_.Push(std::move(*response.mutable_step()));
      case v1::AttachResponse::kDrain:
        return queue_.Push(std::move(*response.mutable_drain()));
      default:
        return absl::FailedPreconditionError("a message of a kind this build doesn't know");
    }
  }

  // ---- the executing thread ----

  void Execute() {
    while (std::optional<Command> command = queue_.Pop()) {
      const absl::Status status =
          std::visit([this](auto& received) { return Do(received); }, *command);
      if (!status.ok()) Fail(status);
      if (failed_ || drained_) break;
    }
    std::lock_guard<std::mutex> lock(mu_);
    executed_ = true;
    changed_.notify_all();
  }

  absl::Status Do(PlanReceived& plan) {
    epoch_ = plan.epoch;
    rank_number_ = static_cast<int>(plan.part.part().rank());
    SetLogEpoch(epoch_);
    SetLogRank(rank_number_);
    v1::AttachRequest request;
    v1::PlanAttestation* attestation = request.mutable_attestation();
    attestation->set_epoch(epoch_);
    attestation->set_plan_hash(plan.part.header().hash());
    attestation->set_part_hash(plan.part.part().hash());
    RETURN_IF_ERROR(options_.rank->SetPlan(std::move(plan.part)));
    Send(request);
    v1::PhaseDone done;
    if (options_.comms != nullptr) {
      ASSIGN_OR_RETURN(*done.mutable_rendezvous(), options_.comms->Rendezvous());
    }
    return Reached(v1::PHASE_PLANNED, std::move(done));
  }

  absl::Status Do(v1::LoadCommand& load) {
    RETURN_IF_ERROR(CheckEpoch("load", load.epoch()));
    load_begin_ = options_.clock->Now();
    loading_ = true;
    absl::StatusOr<std::vector<v1::LedgerItem>> actual =
        options_.rank->Load([this](int64_t done, int64_t total) {
          load_total_ = total;
          int64_t seen = load_done_;
          while (seen < done && !load_done_.compare_exchange_weak(seen, done)) {
          }
        });
    loading_ = false;
    RETURN_IF_ERROR(actual.status());
    SendLoadProgress();
    v1::PhaseDone done;
    done.mutable_actual()->Add(actual->begin(), actual->end());
    return Reached(v1::PHASE_LOADED, std::move(done));
  }

  absl::Status Do(v1::ConnectCommand& connect) {
    RETURN_IF_ERROR(CheckEpoch("connect", connect.epoch()));
    CommunicatorFactory::Peers peers;
    peers.rank = rank_number_;
    peers.rendezvous = {connect.rendezvous().begin(), connect.rendezvous().end()};
    peers.hosts = {connect.hosts().begin(), connect.hosts().end()};
    peers.session = connect.session();
    const Duration timeout = connect.timeout_ms() > 0
                                 ? Duration(std::chrono::milliseconds(connect.timeout_ms()))
                                 : options_.step_timeout;
    RETURN_IF_ERROR(options_.rank->Connect(peers, options_.clock->Now() + timeout));
    return Reached(v1::PHASE_CONNECTED, v1::PhaseDone());
  }

  absl::Status Do(v1::StepPlan& step) {
    RETURN_IF_ERROR(CheckEpoch("step", step.epoch()));
    step_running_ = step.step();
    SetLogStep(step.step());
    v1::AttachRequest request;
    ASSIGN_OR_RETURN(*request.mutable_step_result(),
                     options_.rank->Run(step, options_.clock->Now() + options_.step_timeout));
    step_running_ = 0;
    step_done_ = step.step();
    Send(request);
    if (phase_ >= v1::PHASE_WARMED) return absl::OkStatus();
    return Reached(v1::PHASE_WARMED, v1::PhaseDone());
  }

  absl::Status Do(v1::DrainCommand& drain) {
    SetOutcome(WorkerExit::kDrained, drain.reason());
    NoteLeaving();
    std::lock_guard<std::mutex> lock(write_mu_);
    drained_ = true;
    stream_->WritesDone();
    return absl::OkStatus();
  }

  absl::Status CheckEpoch(const char* what, uint64_t epoch) {
    if (epoch == epoch_) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("a ", what, " of epoch ", epoch, ", this rank is in ", epoch_.load()));
  }

  absl::Status Reached(v1::Phase phase, v1::PhaseDone done) {
    phase_ = phase;
    v1::AttachRequest request;
    done.set_epoch(epoch_);
    done.set_phase(phase);
    *request.mutable_phase_done() = std::move(done);
    Send(request);
    spdlog::debug("epoch {}: {}", epoch_.load(), v1::Phase_Name(phase));
    return absl::OkStatus();
  }

  // ---- the heartbeat thread ----

  void Tick() {
    std::unique_lock<std::mutex> lock(mu_);
    for (int64_t tick = 0; !stop_ticking_; ++tick) {
      const bool overdue =
          leaving_since_.has_value() && options_.clock->Now() > *leaving_since_ + options_.grace;
      lock.unlock();
      if (overdue) context_.TryCancel();
      // Twice as often as promised: progress is fresh even when a tick comes late.
      if (loading_ && load_total_ > 0) SendLoadProgress();
      if (tick % 2 == 0) SendHeartbeat();
      lock.lock();
      changed_.wait_for(lock, options_.heartbeat / 2, [this] { return stop_ticking_; });
    }
  }

  void SendHeartbeat() {
    v1::AttachRequest request;
    v1::Heartbeat* heartbeat = request.mutable_heartbeat();
    heartbeat->set_epoch(epoch_);
    heartbeat->set_phase(static_cast<v1::Phase>(phase_.load()));
    heartbeat->set_step_running(step_running_);
    heartbeat->set_step_done(step_done_);
    Send(request);
  }

  // ---- any thread ----

  void SendLoadProgress() {
    const double seconds =
        std::chrono::duration<double>(options_.clock->Now() - load_begin_.load()).count();
    v1::AttachRequest request;
    v1::LoadProgress* progress = request.mutable_load_progress();
    progress->set_epoch(epoch_);
    progress->set_bytes_done(load_done_);
    progress->set_bytes_total(load_total_);
    progress->set_bytes_per_second(seconds > 0 ? static_cast<double>(load_done_) / seconds : 0);
    Send(request);
  }

  // A stream that no longer takes messages is noticed by the reading thread.
  void Send(const v1::AttachRequest& request) {
    std::lock_guard<std::mutex> lock(write_mu_);
    if (!drained_) stream_->Write(request);
  }

  // The rank cannot go on: says so, frees its peers and waits for the coordinator's word.
  void Fail(const absl::Status& status) {
    if (failed_.exchange(true) || HasOutcome()) return;
    SetOutcome(WorkerExit::kAborted, std::string(status.message()));
    NoteLeaving();
    v1::AttachRequest request;
    v1::RankFailure* failure = request.mutable_failure();
    failure->set_epoch(epoch_);
    failure->set_phase(static_cast<v1::Phase>(phase_.load()));
    failure->set_code(static_cast<int>(status.code()));
    failure->set_message(std::string(status.message()));
    Send(request);
    options_.rank->Abort(std::string(status.message()));
  }

  void NoteLeaving() {
    std::lock_guard<std::mutex> lock(mu_);
    leaving_since_ = options_.clock->Now();
  }

  // The first one stays.
  void SetOutcome(WorkerExit exit, std::string reason) {
    std::lock_guard<std::mutex> lock(mu_);
    if (outcome_.has_value()) return;
    outcome_ = {exit, std::move(reason)};
  }
  bool HasOutcome() {
    std::lock_guard<std::mutex> lock(mu_);
    return outcome_.has_value();
  }
  WorkerExit Exit() {
    std::lock_guard<std::mutex> lock(mu_);
    return outcome_.has_value() ? outcome_->first : WorkerExit::kLost;
  }
  std::string Reason() {
    std::lock_guard<std::mutex> lock(mu_);
    return outcome_.has_value() ? outcome_->second : "the control stream ended";
  }

  bool JoinExecuting(std::thread& executing) {
    std::unique_lock<std::mutex> lock(mu_);
    const bool settled = changed_.wait_for(lock, options_.grace, [this] { return executed_; });
    lock.unlock();
    if (settled) {
      executing.join();
    } else {
      executing.detach();
    }
    return settled;
  }

  const AttachOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::ControlService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;
  std::mutex write_mu_;  // one Write at a time
  CommandQueue queue_;
  PlanAssembler assembler_;  // the reading thread's

  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> phase_{v1::PHASE_JOINED};
  std::atomic<uint64_t> step_running_{0};
  std::atomic<uint64_t> step_done_{0};
  std::atomic<bool> loading_{false};
  std::atomic<TimePoint> load_begin_{TimePoint()};
  std::atomic<int64_t> load_done_{0};
  std::atomic<int64_t> load_total_{0};
  std::atomic<bool> failed_{false};
  std::atomic<bool> drained_{false};
  int rank_number_ = 0;  // the executing thread's

  std::mutex mu_;
  std::condition_variable changed_;
  bool stop_ticking_ = false;
  bool executed_ = false;
  std::optional<TimePoint> leaving_since_;  // drained or failed: the stream ends soon
  std::optional<std::pair<WorkerExit, std::string>> outcome_;
};

}  // namespace

AttachOutcome RunAttach(const AttachOptions& options) {
  return std::make_shared<Session>(options)->Run();
}

}  // namespace whalepod
