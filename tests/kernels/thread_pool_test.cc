#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <utility>
#include <vector>

namespace whalepod::cpu {
namespace {

TEST(ThreadPool, CoversEveryIndexOnceInRangesThatDependOnTheSizesOnly) {
  for (int threads : {1, 2, 5}) {
    ThreadPool pool(threads), other(threads);
    for (int64_t n : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 64, 5000}) {
        SCOPED_TRACE(testing::Message() << threads << " threads, " << n << " by " << grain);
        std::vector<int> seen(n), by(n, -1), by_other(n, -1);
        pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end, int thread) {
          ASSERT_EQ(begin % grain, 0);
          ASSERT_LT(thread, threads);
          for (int64_t i = begin; i < end; ++i) {
            ++seen[i];
            by[i] = thread;
          }
        });
        other.ParallelFor(n, grain, [&](int64_t begin, int64_t end, int thread) {
          for (int64_t i = begin; i < end; ++i) by_other[i] = thread;
        });
        EXPECT_EQ(seen, std::vector<int>(n, 1));
        EXPECT_EQ(by, by_other);
      }
    }
  }
}

TEST(ThreadPool, ReturnsWhenAllPartsAreDone) {
  ThreadPool pool(3);
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int> parts{0};
    pool.ParallelFor(3, 1, [&](int64_t, int64_t, int) { parts.fetch_add(1); });
    ASSERT_EQ(parts.load(), 3);
  }
}

TEST(ThreadPool, ScratchIsAlignedAndEachThreadsOwn) {
  ThreadPool pool(2);
  std::set<void*> buffers;
  for (int thread : {0, 1}) {
    void* buffer = pool.ThreadScratch(thread, 100);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer) % 64, 0u);
    EXPECT_EQ(pool.ThreadScratch(thread, 50), buffer);
    buffers.insert(buffer);
  }
  EXPECT_EQ(buffers.size(), 2u);
}

}  // namespace
}  // namespace whalepod::cpu
