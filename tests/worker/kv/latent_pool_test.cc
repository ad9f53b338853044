#include "worker/kv/latent_pool.h"

#include "gtest/gtest.h"

namespace whalepod {
namespace {

const LatentPool::Shape kShape{
    .layers = 3, .blocks = 5, .block_tokens = 4, .width = 6, .type = DType::kBF16};
constexpr int64_t kLayerBytes = 5 * 4 * 6 * 2;

TEST(LatentPoolTest, LayersLieOneAfterAnother) {
  std::vector<std::byte> arena(3 * kLayerBytes);
  auto pool = LatentPool::Create(kShape, arena.data(), 3 * kLayerBytes);
  ASSERT_TRUE(pool.ok()) << pool.status();
  for (int64_t l = 0; l < 3; ++l) {
    const LatentCache cache = pool->Layer(l);
    EXPECT_EQ(cache.base, arena.data() + l * kLayerBytes);
    EXPECT_EQ(cache.block_stride, 24);
    EXPECT_EQ(cache.blocks, 5);
  }
}

TEST(LatentPoolTest, RefusesASmallArena) {
  EXPECT_EQ(LatentPool::Create(kShape, nullptr, 3 * kLayerBytes - 1).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(BlockTableTest, SlotsFollowTheGrantedBlocks) {
  std::vector<std::byte> arena(3 * kLayerBytes);
  auto pool = LatentPool::Create(kShape, arena.data(), 3 * kLayerBytes);
  ASSERT_TRUE(pool.ok());
  BlockTable table;
  EXPECT_EQ(table.capacity(*pool), 0);
  ASSERT_TRUE(table.Append(*pool, 4).ok());
  ASSERT_TRUE(table.Append(*pool, 0).ok());
  EXPECT_EQ(table.capacity(*pool), 8);
  EXPECT_EQ(table.SlotOf(*pool, 0), 16);
  EXPECT_EQ(table.SlotOf(*pool, 3), 19);
  EXPECT_EQ(table.SlotOf(*pool, 5), 1);
  EXPECT_EQ(table.Append(*pool, 5).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace whalepod
