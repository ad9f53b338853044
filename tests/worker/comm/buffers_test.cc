// What the planner counts for communicators is what they allocate.
#include <gtest/gtest.h>

#include <algorithm>

#include "proto/plan/memory.h"
#include "worker/comm/gloo_mesh.h"
#include "worker/comm/shared_memory.h"
#include "worker/comm/shm_region.h"

namespace whalepod {
namespace {

TEST(CommBuffersTest, SharedMemoryIsAsPlanned) {
  for (int ranks : {2, 3, 8, 72}) {
    for (int64_t most : {int64_t{0}, int64_t{1}, int64_t{4097}, kMaxOutboxBytes + 5}) {
      const int64_t outbox = SharedMemoryOutboxBytes(ranks, std::min(most, kMaxOutboxBytes));
      EXPECT_EQ(outbox % static_cast<int64_t>(ShmRegion::kLine), 0);
      EXPECT_GE(outbox, std::min(most, kMaxOutboxBytes) + ranks * 64);
      EXPECT_EQ(SharedMemoryGroupBytes(ranks, most),
                static_cast<int64_t>(ShmRegion::Bytes(ranks, static_cast<size_t>(outbox))))
          << ranks << " ranks, " << most << " bytes";
    }
  }
}

TEST(CommBuffersTest, GlooIsAsPlanned) {
  const int64_t piece = 1000;
  EXPECT_EQ(GlooGroupBytes(3, piece),
            2 * 2 * 2 * (piece + static_cast<int64_t>(sizeof(GlooPiece))));
  EXPECT_EQ(GlooGroupBytes(3, kMaxGlooPieceBytes + 1), GlooGroupBytes(3, kMaxGlooPieceBytes));
}

}  // namespace
}  // namespace whalepod
