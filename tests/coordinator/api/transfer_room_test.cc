#include "coordinator/api/transfer_room.h"

#include <gtest/gtest.h>

#include "coordinator/api/errors.h"

namespace whalepod {
namespace {

TEST(TransferRoomTest, WhatIsGivenBackCanBeTakenAgain) {
  TransferRoom room(100, 50);
  absl::StatusOr<TransferRoom::Share> first = room.Take("", 60);
  ASSERT_TRUE(first.ok());
  const absl::Status none = room.Take("", 41).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(DetailOf(none)->retry_delay_ms(), kRetryMs);
  const absl::StatusOr<TransferRoom::Share> second = room.Take("", 40);
  EXPECT_TRUE(second.ok());
  TransferRoom::Share copy = *first;
  first = nullptr;
  EXPECT_FALSE(room.Take("", 1).ok());
  copy.reset();
  EXPECT_TRUE(room.Take("", 60).ok());
}

TEST(TransferRoomTest, OneKeyLeavesRoomForOthers) {
  TransferRoom room(100, 50);
  const auto first = room.Take("alice", 40);
  EXPECT_TRUE(first.ok());
  EXPECT_FALSE(room.Take("alice", 11).ok());
  EXPECT_TRUE(room.Take("alice", 10).ok());
  const auto second = room.Take("bob", 50);
  EXPECT_TRUE(second.ok());
  EXPECT_FALSE(room.Take("carol", 11).ok());
  EXPECT_TRUE(room.Take("carol", 10).ok());
}

}  // namespace
}  // namespace whalepod
