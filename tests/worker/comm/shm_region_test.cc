// Corners of the shared-memory algorithm that ordinary use does not reach.
#include "worker/comm/shm_region.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "tests/worker/comm/comm_harness.h"

namespace whalepod {
namespace {

using testing::HasSubstr;

constexpr size_t kOutbox = 512;

class ShmRegionTest : public testing::Test {
 protected:
  // Both ranks see one memory, zeroed.
  ShmRegionTest() {
    size_t bytes = ShmRegion::Bytes(2, kOutbox);
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(ShmRegion::kLine, bytes)));
    std::memset(memory_.get(), 0, bytes);
  }

  std::unique_ptr<ShmRegion> Region() const {
    return std::make_unique<ShmRegion>(memory_.get(), 2, kOutbox, nullptr);
  }
  std::unique_ptr<Communicator> Make(int rank, LivenessProbe probe = nullptr) const {
    Group group{"pair", {10, 11}, rank};
    return MakeShmCommunicator(group, Region(), 10, probe, Clock::Real());
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
};

TEST_F(ShmRegionTest, RoundsMayWrap) {
  Region()->header().gate = 0u - 100;  // 50 rounds before the end
  std::vector<absl::Status> statuses(2);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < 2; ++rank) ranks.push_back(Make(rank));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      statuses[rank] =
          RandomOperations(ranks[rank].get(), 5, 300, 3000, After(std::chrono::seconds(60)));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  EXPECT_LT(Region()->header().gate, 1u << 20);  // it did wrap
}

TEST_F(ShmRegionTest, AWriterOfAnErrorMayDieOnTheWay) {
  auto rank = Make(0);
  Region()->header().error_state = 1;
  Region()->Poison(absl::AbortedError("too late to be written"));
  absl::Status status = rank->Barrier(After(std::chrono::seconds(60)));
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("reason was lost"));
}

TEST_F(ShmRegionTest, TheFirstErrorStaysAndLongOnesAreCut) {
  Region()->Poison(absl::UnavailableError(std::string(5000, 'x')));
  Region()->Poison(absl::AbortedError("second"));
  EXPECT_EQ(Region()->error(), absl::UnavailableError(std::string(ShmRegion::kMaxMessage, 'x')));
}

TEST_F(ShmRegionTest, AProbeThatFindsADeadPeerEndsTheWait) {
  auto rank = Make(0, [] { return 1; });
  absl::Status status = rank->Barrier(After(std::chrono::seconds(60)));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 11 is gone"));
  // The other one hears of it, though it was never told.
  EXPECT_EQ(Make(1)->Barrier(After(std::chrono::seconds(60))), status);
}

TEST_F(ShmRegionTest, BrokenPiecesAreRefused) {
  auto rank = Make(0);
  std::thread liar([&] {
    // Arrives by hand with a piece that reaches beyond the outbox.
    auto region = Region();
    ShmRegion::Slot& slot = region->slot(0, 1, 0);
    slot.kind = OpKind::kAllGather;
    slot.total = 8;
    slot.offset = kOutbox - 4;
    slot.bytes = 8;
    region->line(1).arrivals.store(1);
    if (region->header().arrived.fetch_add(1) + 1 == 2) {
      region->header().arrived.store(0);
      region->header().gate.fetch_add(2);
    }
  });
  std::vector<std::byte> all(8);
  absl::Status status =
      rank->AllGather({}, {0, 8}, absl::MakeSpan(all), After(std::chrono::seconds(60)));
  liar.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 11 wrote a piece of 8 bytes"));
}

}  // namespace
}  // namespace whalepod
