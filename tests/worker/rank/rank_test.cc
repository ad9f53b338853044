// A rank's phases on the bundled model, with planned and actual memory compared.
#include "worker/rank.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <barrier>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/status.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/plan/planner.h"
#include "fake_executor.h"
#include "kernels/cpu/cpu_backend.h"
#include "proto/plan/hash.h"
#include "worker/comm/in_process.h"
#include "worker/memory/arena.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

constexpr char kModel[] = WHALEPOD_SOURCE_DIR "/deploy/models/r1-draft";

absl::StatusOr<v1::ShardingPlan> PlanOf(int tp, int ep) {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(kModel));
  PlanRequest request;
  request.model = checkpoint.model;
  request.checkpoint = &checkpoint;
  request.tp = tp;
  request.ep = ep;
  request.kv_bytes_per_host = 4 << 20;
  ASSIGN_OR_RETURN(v1::ShardingPlan plan, MakePlan(request));
  RETURN_IF_ERROR(BindPlan(checkpoint, &plan));
  return plan;
}

class RankTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({.threads = 2});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }
  std::unique_ptr<Rank> MakeRank(CommunicatorFactory* comms) {
    return Rank::Create({.backend = backend_.get(), .comms = comms});
  }

  std::unique_ptr<Backend> backend_;
};

// Bytes that this process has mapped under an item's name, as anyone can see them.
int64_t MappedAs(const std::string& item) {
  std::ifstream in("/proc/self/smaps");
  std::stringstream text;
  text << in.rdbuf();
  int64_t mapped = 0;
  for (const ArenaMapping& mapping : ParseArenas(text.str())) {
    if (mapping.item == item) mapped += mapping.usage.mapped;
  }
  return mapped;
}

TEST_F(RankTest, WorldOfOneLoadsWhatWasPlanned) {
  const absl::StatusOr<v1::ShardingPlan> plan = PlanOf(1, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::unique_ptr<Rank> rank = MakeRank(nullptr);
  EXPECT_EQ(rank->Load(nullptr).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(rank->SetPlan(MakePlanPart(*plan, 0)).ok());
  EXPECT_EQ(rank->Run(v1::StepPlan(), kNoDeadline).status().code(),
            absl::StatusCode::kFailedPrecondition);

  std::atomic<int64_t> most{0};
  std::atomic<int64_t> all{0};
  const absl::StatusOr<std::vector<v1::LedgerItem>> actual =
      rank->Load([&](int64_t done, int64_t total) {
        all = total;
        if (done == total) most = done;
      });
  ASSERT_TRUE(actual.ok()) << actual.status();
  EXPECT_EQ(most.load(), all.load());

  // Item by item: what was planned, what the rank says, what the kernel shows.
  ASSERT_EQ(actual->size(), 3u);
  for (const v1::LedgerItem& item : *actual) {
    for (const v1::LedgerItem& planned : plan->ranks(0).ledger().items()) {
      if (planned.kind() != item.kind()) continue;
      EXPECT_EQ(planned.bytes(), item.bytes()) << item.name();
    }
    EXPECT_EQ(MappedAs(item.name()), (item.bytes() + 4095) / 4096 * 4096) << item.name();
  }
  const Executor::Options& given = FakeExecutor::latest->options;
  EXPECT_NE(given.kv.data, nullptr);
  EXPECT_TRUE(given.communicators.empty());
  EXPECT_TRUE(given.weights.Has(v1::TENSOR_ROLE_KV_B_KT, 0));
  EXPECT_EQ(given.weights.Packed(v1::TENSOR_ROLE_EXPERT_DOWN, 3, 31)->front().k, 128);
  EXPECT_TRUE(rank->Run(v1::StepPlan(), kNoDeadline).ok());
}

TEST_F(RankTest, PartThatWasTamperedWithIsRefused) {
  const absl::StatusOr<v1::ShardingPlan> plan = PlanOf(1, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  v1::PlanPart part = MakePlanPart(*plan, 0);
  part.mutable_part()->mutable_slices()->set_dest_offset(0, 64);
  const std::unique_ptr<Rank> rank = MakeRank(nullptr);
  EXPECT_EQ(rank->SetPlan(part).code(), absl::StatusCode::kDataLoss);
}

TEST_F(RankTest, GroupsNeedCommunicators) {
  const absl::StatusOr<v1::ShardingPlan> plan = PlanOf(2, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(MakeRank(nullptr)->SetPlan(MakePlanPart(*plan, 0)).code(),
            absl::StatusCode::kFailedPrecondition);
}

// Two ranks up to Connect, each on a thread of its own; then `body`.
template <typename Body>
void OnTwoRanks(std::unique_ptr<Rank> (&ranks)[2], const v1::ShardingPlan& plan,
                InProcessWorld& world, const Body& body) {
  std::thread threads[2];
  std::barrier connected_both(2);
  for (int r = 0; r < 2; ++r) {
    threads[r] = std::thread([&, r] {
      ASSERT_TRUE(ranks[r]->SetPlan(MakePlanPart(plan, r)).ok());
      ASSERT_TRUE(ranks[r]->Load(nullptr).ok());
      CommunicatorFactory::Peers peers{.rank = r, .hosts = {"h", "h"}, .session = "s"};
      for (int p = 0; p < 2; ++p) peers.rendezvous.push_back(*world.factory(p)->Rendezvous());
      const absl::Status connected = ranks[r]->Connect(peers, kNoDeadline);
      EXPECT_TRUE(connected.ok()) << connected;
      connected_both.arrive_and_wait();
      body(r);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(RankTest, TwoRanksStepTogether) {
  const absl::StatusOr<v1::ShardingPlan> plan = PlanOf(2, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  InProcessWorld world(2);
  std::unique_ptr<Rank> ranks[2] = {MakeRank(world.factory(0)), MakeRank(world.factory(1))};
  OnTwoRanks(ranks, *plan, world, [&](int r) {
    EXPECT_EQ(std::ssize(FakeExecutor::latest->options.communicators),
              plan->ranks(r).groups_size());
    EXPECT_TRUE(ranks[r]->Run(v1::StepPlan(), kNoDeadline).ok());
  });
}

TEST_F(RankTest, AbortFreesARankThatWaitsForItsPeer) {
  const absl::StatusOr<v1::ShardingPlan> plan = PlanOf(2, 2);
  ASSERT_TRUE(plan.ok()) << plan.status();
  InProcessWorld world(2);
  std::unique_ptr<Rank> ranks[2] = {MakeRank(world.factory(0)), MakeRank(world.factory(1))};
  OnTwoRanks(ranks, *plan, world, [&](int r) {
    if (r == 0) {
      const absl::Status status = ranks[0]->Run(v1::StepPlan(), kNoDeadline).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
    } else {
      ranks[1]->Abort("rank 1 gives up");
      EXPECT_THAT(std::string(ranks[1]->Run(v1::StepPlan(), kNoDeadline).status().message()),
                  HasSubstr("rank 1 gives up"));
    }
  });
}

TEST_F(RankTest, NothingWorksAfterAnAbort) {
  const absl::StatusOr<v1::ShardingPlan> plan = PlanOf(1, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::unique_ptr<Rank> rank = MakeRank(nullptr);
  ASSERT_TRUE(rank->SetPlan(MakePlanPart(*plan, 0)).ok());
  rank->Abort("first");
  rank->Abort("second");
  EXPECT_EQ(rank->Load(nullptr).status(), absl::AbortedError("first"));
}

}  // namespace
}  // namespace whalepod
