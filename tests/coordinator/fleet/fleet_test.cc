#include "coordinator/fleet/fleet.h"

#include <algorithm>
#include <future>
#include <list>
#include <thread>

#include "absl/strings/str_cat.h"
#include "coordinator/fleet/control_server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/hash.h"
#include "tests/coordinator/fleet/fake_worker.h"

namespace whalepod {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kEpoch = 41;
constexpr std::chrono::seconds kLong(30);

v1::ShardingPlan MakeTestPlan(int dp, int tp) {
  v1::ShardingPlan plan;
  plan.set_format_version(1);
  plan.mutable_layout()->set_replicas(1);
  plan.mutable_layout()->set_pp(1);
  plan.mutable_layout()->set_dp(dp);
  plan.mutable_layout()->set_tp(tp);
  plan.mutable_layout()->set_ep(1);
  plan.mutable_layout()->set_moe_tp(dp * tp);
  // Large enough for several chunks.
  for (int i = 0; i < 2000; ++i)
    plan.add_strings(std::string(1000, static_cast<char>('a' + i % 26)));
  for (int rank = 0; rank < dp * tp; ++rank) plan.add_ranks()->set_rank(rank);
  HashPlan(&plan);
  return plan;
}

class FleetTest : public ::testing::Test {
 protected:
  // Deadlines go by a clock that stands still until a test moves it.
  void StartFleet(int ranks, Duration blame_grace = std::chrono::milliseconds(700),
                  Duration own_pause = std::chrono::hours(1)) {
    ranks_ = ranks;
    FleetOptions options;
    options.ranks = ranks;
    options.epoch = kEpoch;
    options.clock = &clock_;
    options.tick = std::chrono::milliseconds(2);
    options.own_pause = own_pause;
    options.join_timeout = std::chrono::seconds(2);
    options.blame_grace = blame_grace;
    fleet_ = std::make_unique<Fleet>(options);
    fleet_->SetOnFailed([this](const absl::Status& status) { failed_.set_value(status); });
    auto server = ControlServer::Start("127.0.0.1", 0, fleet_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
  }

  FakeWorker::Options Worker(int rank) {
    FakeWorker::Options options;
    options.port = server_->port();
    options.hello.set_protocol_version(v1::PROTOCOL_VERSION_CURRENT);
    options.hello.set_build_hash("build-a");
    options.hello.set_instruction_path("avx2");
    options.hello.set_worker(absl::StrCat("w", rank));
    options.hello.set_incarnation("first");
    options.hello.set_host(absl::StrCat("host", rank / 2));
    options.hello.set_address("127.0.0.1");
    options.hello.set_preferred_rank(rank);
    return options;
  }
  FakeWorker& Add(FakeWorker::Options options) { return workers_.emplace_back(std::move(options)); }
  void AddAll() {
    for (int rank = 0; rank < ranks_; ++rank) Add(Worker(rank));
  }

  absl::Status Form(const v1::ShardingPlan& plan) {
    auto joined = fleet_->WaitJoined();
    if (!joined.ok()) return joined.status();
    for (auto phase : {&Fleet::Load, &Fleet::Connect, &Fleet::Warm}) {
      if (phase == &Fleet::Load) {
        if (absl::Status status = fleet_->Plan(plan); !status.ok()) return status;
      }
      if (absl::Status status = (fleet_.get()->*phase)(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  absl::Status WaitFailed() {
    auto future = failed_.get_future();
    if (future.wait_for(kLong) != std::future_status::ready) {
      return absl::UnknownError("the fleet did not fail");
    }
    return future.get();
  }

  // Moves the clock in steps shorter than a heartbeat's limit, each only after all of `beating`
  // have been heard at the present time; returns what ended the epoch.
  absl::Status AdvanceUntilFailed(const std::vector<int>& beating) {
    const auto limit = std::chrono::steady_clock::now() + kLong;
    while (fleet_->Health().ok() && std::chrono::steady_clock::now() < limit) {
      v1::GetStatusResponse status;
      fleet_->FillStatus(&status);
      const bool heard = std::all_of(beating.begin(), beating.end(), [&](int rank) {
        return status.ranks(rank).phase() != "MISSING" &&
               status.ranks(rank).heartbeat_age_ms() == 0;
      });
      if (heard) clock_.Advance(std::chrono::milliseconds(500));
      std::this_thread::yield();
    }
    return fleet_->Health();
  }

  // Needed before what an intercept refers to goes.
  void WaitAllEnd() {
    for (FakeWorker& worker : workers_) worker.WaitEnd();
  }

  FakeClock clock_;
  std::promise<absl::Status> failed_;
  int ranks_ = 0;
  std::unique_ptr<Fleet> fleet_;
  std::unique_ptr<ControlServer> server_;
  std::list<FakeWorker> workers_;  // goes first

  void TearDown() override {
    workers_.clear();
    server_.reset();
    fleet_.reset();
  }
};

TEST_F(FleetTest, FormsStepsAndDrains) {
  StartFleet(4);
  AddAll();
  const v1::ShardingPlan plan = MakeTestPlan(2, 2);
  ASSERT_TRUE(Form(plan).ok()) << fleet_->Health();
  std::promise<StepOutcome> outcome;
  fleet_->SetOnStep([&](StepOutcome o) { outcome.set_value(std::move(o)); });
  v1::StepPlan step;
  step.set_step(Fleet::kFirstStep);
  step.add_group_tokens(0);
  step.add_group_tokens(0);
  fleet_->SendStep(step);
  auto future = outcome.get_future();
  ASSERT_EQ(future.wait_for(kLong), std::future_status::ready);
  EXPECT_EQ(future.get().step, Fleet::kFirstStep);

  v1::GetStatusResponse status;
  fleet_->FillStatus(&status);
  EXPECT_EQ(status.state(), "ready");
  EXPECT_EQ(status.epoch(), kEpoch);
  EXPECT_EQ(status.ranks(3).worker(), "w3");
  EXPECT_EQ(status.ranks(3).phase(), "READY");
  EXPECT_EQ(status.ranks(3).load_bytes_done(), 1000);

  EXPECT_TRUE(fleet_->Drain("done", kLong));
  int rank = 0;
  for (FakeWorker& worker : workers_) {
    worker.WaitEnd();
    EXPECT_TRUE(worker.drained());
    EXPECT_EQ(worker.epoch(), kEpoch);
    EXPECT_LT(worker.largest_chunk(), 1u << 20);
    EXPECT_TRUE(CheckPlanPart(worker.part()).ok());
    EXPECT_EQ(static_cast<int>(worker.part().part().rank()), rank++);
    EXPECT_EQ(worker.connect().rendezvous(2), "blob 2");
    EXPECT_EQ(worker.connect().hosts(2), "host1");
    EXPECT_EQ(worker.connect().session().size(), 32u);
  }
  EXPECT_TRUE(fleet_->Health().ok());
}

TEST_F(FleetTest, RanksGoToWhoAsksThenToTheLowestFree) {
  StartFleet(3);
  Add(Worker(1));
  for (int i = 0; i < 2; ++i) {
    FakeWorker::Options options = Worker(7 + i);
    options.hello.set_preferred_rank(-1);
    Add(std::move(options));
  }
  auto hellos = fleet_->WaitJoined();
  ASSERT_TRUE(hellos.ok());
  EXPECT_EQ((*hellos)[1].worker(), "w1");
  EXPECT_THAT((*hellos)[0].worker(), AnyOf("w7", "w8"));
}

TEST_F(FleetTest, StrangersAreRefusedAndHurtNobody) {
  StartFleet(2);
  Add(Worker(0));
  // The first is in before the others come.
  v1::GetStatusResponse status;
  do {
    status.Clear();
    fleet_->FillStatus(&status);
  } while (status.ranks(0).phase() != "JOINED");

  const auto refused = [this](const std::function<void(v1::Hello*)>& change) {
    FakeWorker::Options options = Worker(1);
    change(&options.hello);
    return Add(std::move(options)).WaitEnd();
  };
  grpc::Status end = refused([](v1::Hello* h) { h->set_build_hash("build-b"); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(end.error_message(), AllOf(HasSubstr("build-a"), HasSubstr("build-b")));
  end = refused([](v1::Hello* h) { h->set_instruction_path("avx512"); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_THAT(end.error_message(), AllOf(HasSubstr("avx512"), HasSubstr("avx2")));
  end = refused([](v1::Hello* h) { h->set_protocol_version(99); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(end.error_message(), HasSubstr("99"));
  end = refused([](v1::Hello* h) { h->set_preferred_rank(2); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  end = refused([](v1::Hello* h) { h->set_memory_bytes(INT64_MAX); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(end.error_message(), HasSubstr("9223372036854775807"));
  end = refused([](v1::Hello* h) { h->set_host(std::string(1 << 20, 'x')); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(end.error_message(), HasSubstr("1048576 bytes, at most 256"));
  end = refused([](v1::Hello* h) { h->set_preferred_rank(0); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  end = refused([](v1::Hello* h) { h->set_worker("w0"); });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  Add(Worker(1));
  ASSERT_TRUE(Form(MakeTestPlan(1, 2)).ok()) << fleet_->Health();
  end = refused([](v1::Hello* h) {
    h->set_worker("w9");
    h->set_preferred_rank(-1);
  });
  EXPECT_EQ(end.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(fleet_->Health().ok());
}

TEST_F(FleetTest, WhoDoesNotJoinIsNamed) {
  StartFleet(3);
  Add(Worker(1));
  auto joined = std::async(std::launch::async, [this] { return fleet_->WaitJoined().status(); });
  EXPECT_FALSE(AdvanceUntilFailed({1}).ok());
  const absl::Status late = joined.get();
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(late.message(),
              AllOf(HasSubstr("phase JOINED"), HasSubstr("2 of 3 ranks"), HasSubstr("rank 0"),
                    HasSubstr("rank 2"), Not(HasSubstr("w1"))));
  workers_.front().WaitEnd();
  EXPECT_THAT(workers_.front().abort_reason(), HasSubstr("rank 2"));
}

// A worker that does not do its part in one phase.
class FleetPhaseTest : public FleetTest, public ::testing::WithParamInterface<int> {
 protected:
  static v1::AttachResponse::MessageCase Trigger(int phase) {
    switch (phase) {
      case v1::PHASE_PLANNED:
        return v1::AttachResponse::kPlanChunk;
      case v1::PHASE_LOADED:
        return v1::AttachResponse::kLoad;
      case v1::PHASE_CONNECTED:
        return v1::AttachResponse::kConnect;
      default:
        return v1::AttachResponse::kStep;
    }
  }
};

TEST_P(FleetPhaseTest, SilenceMissesTheDeadline) {
  StartFleet(2);
  Add(Worker(0));
  FakeWorker::Options lazy = Worker(1);
  std::promise<void> asked;
  std::once_flag once;
  lazy.intercept = [&](FakeWorker& worker, const v1::AttachResponse& message) {
    if (message.message_case() != Trigger(GetParam())) return false;
    if (message.has_load()) {
      v1::AttachRequest progress;
      progress.mutable_load_progress()->set_epoch(kEpoch);
      progress.mutable_load_progress()->set_bytes_done(3 << 20);
      progress.mutable_load_progress()->set_bytes_total(8 << 20);
      worker.Send(progress);
    }
    std::call_once(once, [&] { asked.set_value(); });
    return true;
  };
  Add(std::move(lazy));
  auto formed = std::async(std::launch::async, [&] { return Form(MakeTestPlan(1, 2)); });
  ASSERT_EQ(asked.get_future().wait_for(kLong), std::future_status::ready);
  // Until rank 0 has answered and rank 1's progress is known, so that only the lazy one is late.
  v1::GetStatusResponse status;
  do {
    status.Clear();
    fleet_->FillStatus(&status);
  } while (status.ranks(0).phase() != PhaseName(static_cast<v1::Phase>(GetParam())) ||
           (GetParam() == v1::PHASE_LOADED && status.ranks(1).load_bytes_done() == 0));
  clock_.Advance(std::chrono::seconds(601));
  const absl::Status end = formed.get();
  EXPECT_EQ(end.code(), absl::StatusCode::kDeadlineExceeded) << end;
  EXPECT_THAT(end.message(), AllOf(HasSubstr("rank 1 (worker w1"), Not(HasSubstr("rank 0")),
                                   HasSubstr(PhaseName(static_cast<v1::Phase>(GetParam())))));
  if (GetParam() == v1::PHASE_LOADED) {
    EXPECT_THAT(end.message(), HasSubstr("3.00 MiB of 8.00 MiB"));
  }
  WaitAllEnd();
  EXPECT_THAT(workers_.front().abort_reason(), HasSubstr("rank 1"));
}

TEST_P(FleetPhaseTest, ALostStreamEndsTheEpochByName) {
  StartFleet(3);
  Add(Worker(0));
  FakeWorker::Options dying = Worker(1);
  dying.intercept = [&](FakeWorker& worker, const v1::AttachResponse& message) {
    if (message.message_case() != Trigger(GetParam())) return false;
    worker.Kill();
    return true;
  };
  Add(std::move(dying));
  Add(Worker(2));
  const absl::Status end = Form(MakeTestPlan(1, 3));
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable) << end;
  EXPECT_THAT(end.message(), AllOf(HasSubstr("rank 1 (worker w1"), HasSubstr("its stream ended"),
                                   HasSubstr(PhaseName(static_cast<v1::Phase>(GetParam())))));
  EXPECT_EQ(WaitFailed(), end);
  for (FakeWorker* worker : {&workers_.front(), &workers_.back()}) {
    worker->WaitEnd();
    EXPECT_THAT(worker->abort_reason(), HasSubstr("rank 1"));
  }
  EXPECT_TRUE(fleet_->WaitGone(kLong));
}

TEST_P(FleetPhaseTest, AFailureSaidIsNamedAtOnce) {
  StartFleet(2);
  Add(Worker(0));
  FakeWorker::Options failing = Worker(1);
  failing.intercept = [&](FakeWorker& worker, const v1::AttachResponse& message) {
    if (message.message_case() != Trigger(GetParam())) return false;
    v1::AttachRequest failure;
    failure.mutable_failure()->set_epoch(kEpoch);
    failure.mutable_failure()->set_phase(static_cast<v1::Phase>(GetParam()));
    failure.mutable_failure()->set_code(static_cast<int>(absl::StatusCode::kDataLoss));
    failure.mutable_failure()->set_message("model-3.safetensors is torn");
    worker.Send(failure);
    return true;
  };
  Add(std::move(failing));
  const absl::Status end = Form(MakeTestPlan(1, 2));
  EXPECT_THAT(end.message(), AllOf(HasSubstr("rank 1 (worker w1"), HasSubstr("DATA_LOSS"),
                                   HasSubstr("model-3.safetensors is torn")));
}

INSTANTIATE_TEST_SUITE_P(Phases, FleetPhaseTest,
                         ::testing::Values(v1::PHASE_PLANNED, v1::PHASE_LOADED, v1::PHASE_CONNECTED,
                                           v1::PHASE_WARMED),
                         [](const auto& info) {
                           return PhaseName(static_cast<v1::Phase>(info.param));
                         });

TEST_F(FleetTest, AWrongAttestationIsRefused) {
  StartFleet(2);
  Add(Worker(0));
  FakeWorker::Options wrong = Worker(1);
  wrong.intercept = [&](FakeWorker& worker, const v1::AttachResponse& message) {
    if (!message.has_plan_chunk()) return false;
    if (!message.plan_chunk().last()) return true;
    v1::AttachRequest attestation;
    attestation.mutable_attestation()->set_epoch(kEpoch);
    attestation.mutable_attestation()->set_plan_hash("not it");
    worker.Send(attestation);
    return true;
  };
  Add(std::move(wrong));
  const v1::ShardingPlan plan = MakeTestPlan(1, 2);
  const absl::Status end = Form(plan);
  EXPECT_EQ(end.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(end.message(), AllOf(HasSubstr("rank 1"), HasSubstr(HexOf("not it")),
                                   HasSubstr(HexOf(plan.hash()))));
}

TEST_F(FleetTest, SilenceIsDeath) {
  StartFleet(2);
  AddAll();
  ASSERT_TRUE(Form(MakeTestPlan(1, 2)).ok());
  workers_.back().StopHeartbeats();
  const absl::Status health = AdvanceUntilFailed({0});
  EXPECT_EQ(health.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(health.message(), AllOf(HasSubstr("rank 1 (worker w1"), HasSubstr("no heartbeat"),
                                      Not(HasSubstr("rank 0"))));
  EXPECT_EQ(WaitFailed(), health);
}

// The first complaint comes from a healthy rank; the one to name is the one that is gone.
TEST_F(FleetTest, TheDeadOneIsBlamedNotTheOneThatComplains) {
  StartFleet(2);
  AddAll();
  ASSERT_TRUE(Form(MakeTestPlan(1, 2)).ok());
  v1::AttachRequest failure;
  failure.mutable_failure()->set_epoch(kEpoch);
  failure.mutable_failure()->set_phase(v1::PHASE_READY);
  failure.mutable_failure()->set_code(static_cast<int>(absl::StatusCode::kUnavailable));
  failure.mutable_failure()->set_message("peer 1 closed the connection");
  workers_.front().Send(failure);
  workers_.back().Kill();
  const absl::Status end = WaitFailed();
  EXPECT_THAT(end.message(), HasSubstr("rank 1 (worker w1"));
  EXPECT_THAT(end.message(), HasSubstr("its stream ended"));
}

TEST_F(FleetTest, AComplaintStandsWhenNobodyIsFoundDead) {
  StartFleet(2, Duration(0));
  AddAll();
  ASSERT_TRUE(Form(MakeTestPlan(1, 2)).ok());
  v1::AttachRequest failure;
  failure.mutable_failure()->set_epoch(kEpoch);
  failure.mutable_failure()->set_code(static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  failure.mutable_failure()->set_message("all-gather took too long");
  workers_.front().Send(failure);
  EXPECT_THAT(WaitFailed().message(), AllOf(HasSubstr("rank 0"), HasSubstr("took too long")));
}

TEST_F(FleetTest, OtherEpochsAreNotHeard) {
  StartFleet(1);
  Add(Worker(0));
  ASSERT_TRUE(Form(MakeTestPlan(1, 1)).ok());
  v1::AttachRequest stale;
  stale.mutable_failure()->set_epoch(kEpoch - 1);
  stale.mutable_failure()->set_code(static_cast<int>(absl::StatusCode::kInternal));
  workers_.front().Send(stale);
  v1::AttachRequest result;
  result.mutable_step_result()->set_epoch(kEpoch - 1);
  result.mutable_step_result()->set_step(77);
  workers_.front().Send(result);
  workers_.front().Send(FakeWorker::Done(kEpoch - 1, v1::PHASE_LOADED));
  // Answered after all those, as the stream keeps order.
  std::promise<void> stepped;
  fleet_->SetOnStep([&](StepOutcome) { stepped.set_value(); });
  v1::StepPlan step;
  step.set_step(Fleet::kFirstStep);
  step.add_group_tokens(0);
  fleet_->SendStep(step);
  EXPECT_EQ(stepped.get_future().wait_for(kLong), std::future_status::ready);
  EXPECT_TRUE(fleet_->Health().ok()) << fleet_->Health();
}

TEST_F(FleetTest, AStalledStepNamesWhoIsMissing) {
  StartFleet(2);
  Add(Worker(0));
  FakeWorker::Options stuck = Worker(1);
  std::promise<void> asked;
  stuck.intercept = [&](FakeWorker&, const v1::AttachResponse& message) {
    if (!message.has_step() || message.step().step() < Fleet::kFirstStep) return false;
    asked.set_value();
    return true;
  };
  Add(std::move(stuck));
  ASSERT_TRUE(Form(MakeTestPlan(1, 2)).ok());
  v1::StepPlan step;
  step.set_step(Fleet::kFirstStep);
  step.add_group_tokens(0);
  fleet_->SendStep(step);
  ASSERT_EQ(asked.get_future().wait_for(kLong), std::future_status::ready);
  const absl::Status health = AdvanceUntilFailed({0, 1});
  EXPECT_EQ(health.code(), absl::StatusCode::kDeadlineExceeded) << health;
  EXPECT_THAT(health.message(), AllOf(HasSubstr("step 2 stalled"), HasSubstr("5.0 s"),
                                      HasSubstr("rank 1 (worker w1"), Not(HasSubstr("rank 0"))));
  WaitAllEnd();
}

// Neither the phase's deadline nor a rank's silence counts while the coordinator stood still.
TEST_F(FleetTest, APauseOfItsOwnIsNotHeldAgainstRanks) {
  StartFleet(1, std::chrono::milliseconds(700), std::chrono::milliseconds(500));
  FakeWorker::Options slow = Worker(0);
  slow.heartbeats = false;
  std::promise<void> asked;
  slow.intercept = [&](FakeWorker&, const v1::AttachResponse& message) {
    if (message.has_load()) asked.set_value();
    return message.has_load();
  };
  Add(std::move(slow));
  std::future<absl::Status> formed =
      std::async(std::launch::async, [this] { return Form(MakeTestPlan(1, 1)); });
  ASSERT_EQ(asked.get_future().wait_for(kLong), std::future_status::ready);
  clock_.Advance(std::chrono::hours(1));
  const auto limit = std::chrono::steady_clock::now() + kLong;
  v1::GetStatusResponse status;
  do {
    status.Clear();
    fleet_->FillStatus(&status);
    std::this_thread::yield();
  } while (status.ranks(0).heartbeat_age_ms() > 0 && std::chrono::steady_clock::now() < limit);
  workers_.front().Send(FakeWorker::Done(kEpoch, v1::PHASE_LOADED));
  EXPECT_TRUE(formed.get().ok()) << fleet_->Health();
  fleet_->Drain("the test is over", kLong);
  WaitAllEnd();
}

TEST_F(FleetTest, APortInUseIsAnError) {
  StartFleet(1);
  Fleet* fleet = fleet_.get();
  const absl::Status status = ControlServer::Start("127.0.0.1", server_->port(), fleet).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat(server_->port())));
}

}  // namespace
}  // namespace whalepod
