#include "coordinator/sched/block_pool.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

PrefixKey Key(uint32_t salt) {
  const std::vector<uint32_t> tokens = {salt};
  return KeyOfBlock(PrefixKey(), tokens, 1);
}

TEST(BlockPool, TakesAllAndNoMore) {
  BlockPool pool(3);
  const std::vector<uint32_t> blocks = {*pool.Take(), *pool.Take(), *pool.Take()};
  EXPECT_THAT(blocks, ::testing::UnorderedElementsAre(0, 1, 2));
  EXPECT_EQ(pool.Take(), std::nullopt);
  EXPECT_EQ(pool.owned(), 3u);
  pool.Release(blocks);
  EXPECT_EQ(pool.owned(), 0u);
  EXPECT_EQ(pool.cached(), 0u);
}

TEST(BlockPool, KeyedBlocksAreFoundUntilTheirMemoryIsWanted) {
  BlockPool pool(3);
  const std::vector<uint32_t> blocks = {*pool.Take(), *pool.Take()};
  pool.SetKey(blocks[0], Key(1));
  pool.SetKey(blocks[1], Key(2));
  pool.Release(blocks);
  EXPECT_EQ(pool.owned(), 0u);
  EXPECT_EQ(pool.available(), 3u);
  EXPECT_EQ(pool.cached(), 2u);
  const std::vector<PrefixKey> keys = {Key(1), Key(2), Key(3)};
  EXPECT_EQ(pool.Find(keys), blocks);
  // What has no key goes first, then the end of what was released.
  const uint32_t first = *pool.Take();
  EXPECT_THAT(pool.Find(keys), ElementsAre(blocks[0], blocks[1]));
  EXPECT_EQ(*pool.Take(), blocks[1]);
  EXPECT_THAT(pool.Find(keys), ElementsAre(blocks[0]));
  EXPECT_EQ(*pool.Take(), blocks[0]);
  EXPECT_THAT(pool.Find(keys), IsEmpty());
  EXPECT_NE(first, blocks[0]);
}

TEST(BlockPool, SharedBlocksStayUntilTheLastOwnerGoes) {
  BlockPool pool(2);
  const uint32_t block = *pool.Take();
  pool.SetKey(block, Key(1));
  pool.Share(block);
  EXPECT_EQ(pool.owners(block), 2u);
  pool.Release({&block, 1});
  EXPECT_EQ(pool.owned(), 1u);
  pool.Release({&block, 1});
  EXPECT_EQ(pool.owned(), 0u);
  // Found again from the cache; it then counts as taken.
  EXPECT_TRUE(pool.CanTake({&block, 1}, 1));
  EXPECT_FALSE(pool.CanTake({&block, 1}, 2));
  pool.Share(block);
  EXPECT_EQ(pool.available(), 1u);
}

TEST(BlockPool, TheFirstBlockOfAKeyIsTheOneFound) {
  BlockPool pool(2);
  const std::vector<uint32_t> blocks = {*pool.Take(), *pool.Take()};
  pool.SetKey(blocks[0], Key(1));
  pool.SetKey(blocks[1], Key(1));
  const std::vector<PrefixKey> keys = {Key(1)};
  EXPECT_THAT(pool.Find(keys), ElementsAre(blocks[0]));
  pool.Release(blocks);
  EXPECT_EQ(pool.cached(), 1u);  // the second was plainly freed
}

TEST(PrefixKey, TellsTokensPlacesAndRolesApart) {
  const std::vector<uint32_t> a = {1, 2}, b = {2, 1};
  const PrefixKey first = KeyOfBlock(PrefixKey(), a, 2);
  EXPECT_EQ(first, KeyOfBlock(PrefixKey(), a, 2));
  EXPECT_FALSE(first == KeyOfBlock(PrefixKey(), b, 2));
  EXPECT_FALSE(first == KeyOfBlock(PrefixKey(), a, 1));  // the second was generated
  EXPECT_FALSE(first == KeyOfBlock(first, a, 2));        // the same tokens further on
}

}  // namespace
}  // namespace whalepod
