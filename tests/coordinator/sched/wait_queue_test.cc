#include "coordinator/sched/wait_queue.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;

// Takes requests out in the queue's order.
class WaitQueueTest : public ::testing::Test {
 protected:
  struct Waiting {
    WaitQueue::Tenant* tenant;
    QueuePlace place;
    int32_t priority;
  };

  void Arrive(uint64_t id, int32_t priority, int64_t second, const std::string& tenant = "") {
    const TimePoint at = TimePoint() + seconds(second);
    Waiting waiting{queue_.Enter(tenant), queue_.PlaceOf(id, priority, at), priority};
    queue_.Push(waiting.tenant, waiting.place, priority);
    waiting_.emplace(id, waiting);
  }
  // The next at `second`, which gets `tokens` served.
  uint64_t Take(int64_t second, double tokens = 1) {
    const uint64_t id = queue_.Next(TimePoint() + seconds(second)).value();
    const Waiting& taken = waiting_.at(id);
    queue_.Remove(taken.tenant, taken.place, taken.priority);
    taken.tenant->served += tokens;
    return id;
  }
  std::vector<uint64_t> TakeAll(int64_t second, double tokens = 1) {
    std::vector<uint64_t> ids;
    while (!queue_.empty()) ids.push_back(Take(second, tokens));
    return ids;
  }

  WaitQueue queue_{seconds(5)};
  std::map<uint64_t, Waiting> waiting_;
};

TEST_F(WaitQueueTest, FirstComeFirstServedAtOnePriority) {
  for (const uint64_t id : {1, 2, 3}) Arrive(id, 0, static_cast<int64_t>(id));
  EXPECT_THAT(TakeAll(10), ElementsAre(1, 2, 3));
  EXPECT_EQ(queue_.Next(TimePoint()), std::nullopt);
}

TEST_F(WaitQueueTest, LowerNumbersFirst) {
  Arrive(1, 100, 0);
  Arrive(2, 1, 1);
  Arrive(3, 0, 2);
  Arrive(4, -1, 2);
  EXPECT_EQ(queue_.by_priority().at(100), 1u);
  EXPECT_THAT(TakeAll(2), ElementsAre(4, 3, 2, 1));
  EXPECT_TRUE(queue_.by_priority().empty());
}

TEST_F(WaitQueueTest, AStreamOfBetterOnesDelaysButDoesNotStarve) {
  Arrive(1, 10, 0);
  uint64_t id = 2;
  int64_t second = 0;
  // One better request arrives each second, and one is served.
  for (Arrive(id, 0, second); Take(second) != 1; Arrive(++id, 0, ++second)) {
    ASSERT_LT(second, 100);
  }
  EXPECT_EQ(second, 50);  // ten points of five seconds each
}

TEST_F(WaitQueueTest, KeysShareHoweverManyRequestsTheySend) {
  for (uint64_t id = 1; id <= 6; ++id) Arrive(id, 0, 0, "many");
  Arrive(7, 0, 1, "few");
  Arrive(8, 0, 1, "few");
  EXPECT_THAT(TakeAll(2, 100), ElementsAre(1, 7, 2, 8, 3, 4, 5, 6));
}

TEST_F(WaitQueueTest, LargeRequestsCountAsLarge) {
  for (uint64_t id = 1; id <= 2; ++id) Arrive(id, 0, 0, "large");
  for (uint64_t id = 3; id <= 6; ++id) Arrive(id, 0, 0, "small");
  EXPECT_EQ(Take(1, 1000), 1u);
  for (const uint64_t id : {3, 4, 5, 6}) EXPECT_EQ(Take(1, 10), id);
  EXPECT_EQ(Take(1, 1000), 2u);
}

TEST_F(WaitQueueTest, NothingIsSavedUpWhileAway) {
  Arrive(1, 0, 0, "here");
  Arrive(2, 0, 0, "here");
  EXPECT_EQ(Take(0, 1000), 1u);
  // It comes level with the one that is here, not 1,000 tokens ahead.
  Arrive(3, 0, 1, "new");
  Arrive(4, 0, 1, "new");
  EXPECT_EQ(Take(2, 10), 2u);
  EXPECT_THAT(TakeAll(2), ElementsAre(3, 4));
}

}  // namespace
}  // namespace whalepod
