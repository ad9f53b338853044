// The worker's end of the stream against a scripted coordinator and a rank that only notes calls.
#include "worker/control/attach_client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <mutex>
#include <vector>

#include "whalepod/v1/control.grpc.pb.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ServerStream = grpc::ServerReaderWriter<v1::AttachResponse, v1::AttachRequest>;

// A flag to wait for.
class Event {
 public:
  void Set() {
    std::lock_guard<std::mutex> lock(mu_);
    set_ = true;
    changed_.notify_all();
  }
  void Wait() {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait(lock, [this] { return set_; });
  }

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  bool set_ = false;
};

class FakeRank : public Rank {
 public:
  absl::Status SetPlan(v1::PlanPart part) override {
    calls.push_back("plan");
    return plan_status;
  }
  absl::StatusOr<std::vector<v1::LedgerItem>> Load(const Progress& progress) override {
    calls.push_back("load");
    progress(10, 100);
    if (hold_load != nullptr) hold_load->Wait();
    v1::LedgerItem item;
    item.set_name("weights");
    item.set_bytes(100);
    return std::vector<v1::LedgerItem>{item};
  }
  absl::Status Connect(const CommunicatorFactory::Peers& peers, TimePoint deadline) override {
    calls.push_back("connect " + std::to_string(peers.rank) + " " + peers.session);
    return absl::OkStatus();
  }
  absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) override {
    calls.push_back("step " + std::to_string(step.step()));
    if (run_until != nullptr) {
      running.Set();
      run_until->Wait();
      return absl::AbortedError("run ended");
    }
    v1::StepResult result;
    result.set_step(step.step());
    return result;
  }
  void Abort(const std::string& reason) override {
    std::lock_guard<std::mutex> lock(abort_mu);  // comes from any thread
    if (abort_reason.empty()) abort_reason = reason;
    aborted.Set();
  }

  std::vector<std::string> calls;  // of the executing thread
  absl::Status plan_status;
  Event* hold_load = nullptr;
  Event* run_until = nullptr;
  Event running;
  Event aborted;
  std::mutex abort_mu;
  std::string abort_reason;  // read once the client has returned
};

using Script = std::function<grpc::Status(ServerStream*)>;

class FakeCoordinator : public v1::ControlService::Service {
 public:
  explicit FakeCoordinator(Script script) : script_(std::move(script)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCoordinator() override { server_->Shutdown(); }
  grpc::Status Attach(grpc::ServerContext*, ServerStream* stream) override {
    return script_(stream);
  }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  const Script script_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// Reads up to the next message of a kind; heartbeats and progress may come between.
v1::AttachRequest Await(ServerStream* stream, v1::AttachRequest::MessageCase kind) {
  v1::AttachRequest request;
  while (stream->Read(&request)) {
    if (request.message_case() == kind) return request;
    EXPECT_TRUE(request.has_heartbeat() || request.has_load_progress()) << request.DebugString();
  }
  ADD_FAILURE() << "the stream ended before a message of kind " << kind;
  return v1::AttachRequest();
}

void SendPlan(ServerStream* stream) {
  v1::PlanPart part;
  part.mutable_part()->set_rank(2);
  part.mutable_part()->set_hash("part hash");
  part.mutable_header()->set_hash("root");
  v1::AttachResponse response;
  v1::PlanChunk* chunk = response.mutable_plan_chunk();
  chunk->set_epoch(7);
  chunk->set_rank(2);
  chunk->set_data(part.SerializeAsString());
  chunk->set_last(true);
  stream->Write(response);
}
void SendLoad(ServerStream* stream) {
  v1::AttachResponse response;
  response.mutable_load()->set_epoch(7);
  stream->Write(response);
}
void SendConnect(ServerStream* stream) {
  v1::AttachResponse response;
  response.mutable_connect()->set_epoch(7);
  response.mutable_connect()->set_session("secret");
  stream->Write(response);
}
void SendStep(ServerStream* stream, uint64_t step) {
  v1::AttachResponse response;
  response.mutable_step()->set_epoch(7);
  response.mutable_step()->set_step(step);
  stream->Write(response);
}
void SendAbort(ServerStream* stream, uint64_t epoch, const std::string& reason) {
  v1::AttachResponse response;
  response.mutable_abort()->set_epoch(epoch);
  response.mutable_abort()->set_reason(reason);
  stream->Write(response);
}
void SendDrain(ServerStream* stream) {
  v1::AttachResponse response;
  response.mutable_drain()->set_reason("done");
  stream->Write(response);
}
// Until the worker has closed its side.
void ReadOut(ServerStream* stream) {
  v1::AttachRequest request;
  while (stream->Read(&request)) {
  }
}

class AttachClientTest : public ::testing::Test {
 protected:
  AttachOutcome Run(Script script) { return Run(std::move(script), &rank_); }
  AttachOutcome Run(Script script, FakeRank* rank) {
    FakeCoordinator coordinator(std::move(script));
    options_.coordinator = coordinator.address();
    options_.hello.set_worker("w2");
    options_.rank = rank;
    return RunAttach(options_);
  }

  FakeRank rank_;
  AttachOptions options_;
};

TEST_F(AttachClientTest, GoesThroughAllPhasesAndDrains) {
  const AttachOutcome outcome = Run([](ServerStream* stream) {
    v1::AttachRequest hello;
    EXPECT_TRUE(stream->Read(&hello));
    EXPECT_EQ(hello.hello().worker(), "w2");
    SendPlan(stream);
    const v1::PlanAttestation attestation =
        Await(stream, v1::AttachRequest::kAttestation).attestation();
    EXPECT_EQ(attestation.epoch(), 7u);
    EXPECT_EQ(attestation.part_hash(), "part hash");
    EXPECT_EQ(attestation.plan_hash(), "root");
    EXPECT_EQ(Await(stream, v1::AttachRequest::kPhaseDone).phase_done().phase(), v1::PHASE_PLANNED);
    SendLoad(stream);
    const v1::PhaseDone loaded = Await(stream, v1::AttachRequest::kPhaseDone).phase_done();
    EXPECT_EQ(loaded.phase(), v1::PHASE_LOADED);
    EXPECT_EQ(loaded.actual(0).bytes(), 100);
    SendConnect(stream);
    EXPECT_EQ(Await(stream, v1::AttachRequest::kPhaseDone).phase_done().phase(),
              v1::PHASE_CONNECTED);
    SendStep(stream, 1);
    EXPECT_EQ(Await(stream, v1::AttachRequest::kStepResult).step_result().step(), 1u);
    EXPECT_EQ(Await(stream, v1::AttachRequest::kPhaseDone).phase_done().phase(), v1::PHASE_WARMED);
    SendStep(stream, 2);
    SendStep(stream, 3);
    SendDrain(stream);
    EXPECT_EQ(Await(stream, v1::AttachRequest::kStepResult).step_result().step(), 2u);
    EXPECT_EQ(Await(stream, v1::AttachRequest::kStepResult).step_result().step(), 3u);
    ReadOut(stream);
    return grpc::Status::OK;
  });
  EXPECT_EQ(outcome.exit, WorkerExit::kDrained) << outcome.reason;
  EXPECT_THAT(rank_.calls,
              ElementsAre("plan", "load", "connect 2 secret", "step 1", "step 2", "step 3"));
  EXPECT_EQ(rank_.abort_reason, "");
}

TEST_F(AttachClientTest, AbortOvertakesQueuedStepsAndFreesTheRunningOne) {
  rank_.run_until = &rank_.aborted;
  const AttachOutcome outcome = Run([this](ServerStream* stream) {
    SendPlan(stream);
    SendStep(stream, 1);
    rank_.running.Wait();
    SendStep(stream, 2);
    SendAbort(stream, 8, "of another epoch");
    SendAbort(stream, 7, "rank 0 is lost");
    ReadOut(stream);
    return grpc::Status::OK;
  });
  EXPECT_EQ(outcome.exit, WorkerExit::kAborted);
  EXPECT_EQ(outcome.reason, "rank 0 is lost");
  EXPECT_TRUE(outcome.settled);
  EXPECT_EQ(rank_.abort_reason, "rank 0 is lost");
  EXPECT_THAT(rank_.calls, ElementsAre("plan", "step 1"));
}

TEST_F(AttachClientTest, ThreadThatDoesNotReturnIsLeftBehind) {
  // Both outlive the thread, which ends after this test.
  static FakeRank* const rank = new FakeRank;
  static Event* const release = new Event;
  rank->run_until = release;
  options_.grace = std::chrono::milliseconds(20);
  const AttachOutcome outcome = Run(
      [](ServerStream* stream) {
        SendPlan(stream);
        SendStep(stream, 1);
        rank->running.Wait();
        SendAbort(stream, 7, "stalled");
        ReadOut(stream);
        return grpc::Status::OK;
      },
      rank);
  EXPECT_EQ(outcome.exit, WorkerExit::kAborted);
  EXPECT_FALSE(outcome.settled);
  release->Set();
}

TEST_F(AttachClientTest, StreamThatEndsWithoutAWordIsALostCoordinator) {
  const AttachOutcome outcome = Run([](ServerStream* stream) {
    v1::AttachRequest hello;
    stream->Read(&hello);
    return grpc::Status(grpc::StatusCode::ABORTED, "build \"a\" is not the epoch's \"b\"");
  });
  EXPECT_EQ(outcome.exit, WorkerExit::kLost);
  EXPECT_THAT(outcome.reason, HasSubstr("build \"a\" is not the epoch's \"b\""));
  EXPECT_THAT(rank_.abort_reason, HasSubstr("build"));
}

TEST_F(AttachClientTest, FailureIsReportedWithItsCode) {
  rank_.plan_status = absl::DataLossError("part hash differs");
  const AttachOutcome outcome = Run([](ServerStream* stream) {
    v1::AttachRequest hello;
    stream->Read(&hello);
    SendPlan(stream);
    const v1::RankFailure failure = Await(stream, v1::AttachRequest::kFailure).failure();
    EXPECT_EQ(failure.epoch(), 7u);
    EXPECT_EQ(failure.phase(), v1::PHASE_JOINED);
    EXPECT_EQ(failure.code(), static_cast<int>(absl::StatusCode::kDataLoss));
    EXPECT_EQ(failure.message(), "part hash differs");
    SendAbort(stream, 7, "rank 2 failed");
    ReadOut(stream);
    return grpc::Status::OK;
  });
  EXPECT_EQ(outcome.exit, WorkerExit::kAborted);
  EXPECT_EQ(outcome.reason, "part hash differs");
}

TEST_F(AttachClientTest, StepOfAnotherEpochIsRefused) {
  const AttachOutcome outcome = Run([](ServerStream* stream) {
    v1::AttachRequest hello;
    stream->Read(&hello);
    SendPlan(stream);
    v1::AttachResponse response;
    response.mutable_step()->set_epoch(6);
    stream->Write(response);
    Await(stream, v1::AttachRequest::kAttestation);
    Await(stream, v1::AttachRequest::kPhaseDone);
    EXPECT_EQ(Await(stream, v1::AttachRequest::kFailure).failure().message(),
              "a step of epoch 6, this rank is in 7");
    SendAbort(stream, 7, "bad");
    return grpc::Status::OK;
  });
  EXPECT_EQ(outcome.exit, WorkerExit::kAborted);
}

TEST_F(AttachClientTest, ProgressAndHeartbeatsComeWhileLoadingStands) {
  Event seen;
  rank_.hold_load = &seen;
  options_.heartbeat = std::chrono::milliseconds(10);
  const AttachOutcome outcome = Run([&](ServerStream* stream) {
    SendPlan(stream);
    SendLoad(stream);
    int progress = 0;
    int heartbeats = 0;
    v1::AttachRequest request;
    while ((progress < 3 || heartbeats < 3) && stream->Read(&request)) {
      heartbeats += request.has_heartbeat() ? 1 : 0;
      if (!request.has_load_progress() || request.load_progress().bytes_done() == 0) continue;
      ++progress;
      EXPECT_EQ(request.load_progress().bytes_done(), 10);
      EXPECT_EQ(request.load_progress().bytes_total(), 100);
    }
    seen.Set();
    Await(stream, v1::AttachRequest::kPhaseDone);
    SendDrain(stream);
    ReadOut(stream);
    return grpc::Status::OK;
  });
  EXPECT_EQ(outcome.exit, WorkerExit::kDrained) << outcome.reason;
}

TEST_F(AttachClientTest, NobodyThere) {
  options_.coordinator = "127.0.0.1:1";
  options_.dial_timeout = std::chrono::milliseconds(100);
  options_.rank = &rank_;
  const AttachOutcome outcome = RunAttach(options_);
  EXPECT_EQ(outcome.exit, WorkerExit::kLost);
  EXPECT_THAT(outcome.reason, HasSubstr("no coordinator answers at 127.0.0.1:1"));
}

}  // namespace
}  // namespace whalepod
