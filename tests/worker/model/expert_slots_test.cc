#include "worker/model/expert_slots.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;

TEST(ExpertSlotsTest, GroupsByExpertInOrderOfToken) {
  const std::vector<int> local = {2, 5};
  ExpertSlots work(local, 8);
  const std::vector<int32_t> ids = {1, 2, /**/ 2, 5, /**/ 0, 7, /**/ 5, 6};
  std::vector<int32_t> slots(8), rows(4);
  work.Assign(4, 2, ids.data(), 100, slots.data(), rows.data());
  ASSERT_EQ(work.chunks().size(), 1u);
  EXPECT_EQ(work.total_slots(), 4);
  EXPECT_THAT(work.chunks()[0].offsets, ElementsAre(0, 2, 4));
  EXPECT_THAT(slots, ElementsAre(-1, 0, 1, 2, -1, -1, 3, -1));
  EXPECT_THAT(rows, ElementsAre(0, 1, 1, 3));
}

TEST(ExpertSlotsTest, ChunksHoldWholeTokens) {
  const std::vector<int> local = {0, 1, 2};
  ExpertSlots work(local, 4);
  const std::vector<int32_t> ids = {0, 1, /**/ 1, 2, /**/ 2, 3, /**/ 0, 2};
  std::vector<int32_t> slots(8), rows(7);
  work.Assign(4, 2, ids.data(), 3, slots.data(), rows.data());
  ASSERT_EQ(work.chunks().size(), 3u);
  EXPECT_EQ(work.chunks()[1].token0, 1);
  EXPECT_EQ(work.chunks()[1].tokens, 2);
  EXPECT_EQ(work.chunks()[1].slot0, 2);
  EXPECT_THAT(work.chunks()[1].offsets, ElementsAre(0, 0, 1, 3));
  EXPECT_THAT(slots, ElementsAre(0, 1, 0, 1, 2, -1, 0, 1));
  EXPECT_THAT(rows, ElementsAre(0, 0, 1, 1, 2, 3, 3));
}

TEST(ExpertSlotsTest, NoTokenAndNoLocalExpert) {
  ExpertSlots work({}, 4);
  work.Assign(0, 2, nullptr, 0, nullptr, nullptr);
  EXPECT_EQ(work.chunks().size(), 0u);
  const std::vector<int32_t> ids = {0, 1, 2, 3};
  std::vector<int32_t> slots(4);
  work.Assign(2, 2, ids.data(), 0, slots.data(), nullptr);
  ASSERT_EQ(work.chunks().size(), 1u);
  EXPECT_EQ(work.total_slots(), 0);
  EXPECT_THAT(slots, ElementsAre(-1, -1, -1, -1));
}

}  // namespace
}  // namespace whalepod
