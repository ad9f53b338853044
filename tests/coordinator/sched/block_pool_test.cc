#include "coordinator/sched/block_pool.h"

#include <vector>

#include "gtest/gtest.h"

namespace whalepod {
namespace {

TEST(BlockPool, PromisesAreKept) {
  BlockPool pool(4);
  EXPECT_TRUE(pool.Promise(3));
  EXPECT_FALSE(pool.Promise(2));
  EXPECT_EQ(pool.available(), 1u);
  std::vector<uint32_t> owned = {pool.Take(), pool.Take()};
  EXPECT_NE(owned[0], owned[1]);
  EXPECT_EQ(pool.owned(), 2u);
  EXPECT_EQ(pool.promised(), 1u);
  EXPECT_EQ(pool.available(), 1u);
  pool.Release(owned, 1);
  EXPECT_EQ(pool.available(), 4u);
  EXPECT_FALSE(pool.IsOwned(owned[0]));
}

TEST(BlockPoolDeath, ReleasingWhatIsNotOwnedIsOurBug) {
  BlockPool pool(2);
  EXPECT_DEATH(pool.Release(std::vector<uint32_t>{1}, 0), "CHECK failed");
  EXPECT_DEATH(pool.Take(), "CHECK failed");
}

}  // namespace
}  // namespace whalepod
