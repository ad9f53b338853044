#include "coordinator/api/work_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace whalepod {
namespace {

TEST(WorkPoolTest, RunsAllThatWaitsBeforeItEnds) {
  std::atomic<int> ran{0};
  {
    WorkPool pool(2, 100);
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(pool.Run([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 100);
}

TEST(WorkPoolTest, RefusesWhenTooManyWait) {
  std::promise<void> go, busy;
  std::shared_future<void> gone = go.get_future().share();
  std::atomic<int> ran{0};
  WorkPool pool(1, 2);
  ASSERT_TRUE(pool.Run([&] {
    busy.set_value();
    gone.wait();
  }));
  busy.get_future().wait();
  EXPECT_TRUE(pool.Run([&] { ++ran; }));
  EXPECT_TRUE(pool.Run([&] { ++ran; }));
  EXPECT_FALSE(pool.Run([&] { ++ran; }));
  go.set_value();
  std::promise<void> last;
  while (!pool.Run([&] { last.set_value(); })) std::this_thread::yield();
  last.get_future().wait();
  EXPECT_EQ(ran, 2);
}

}  // namespace
}  // namespace whalepod
