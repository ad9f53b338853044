#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <thread>
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
        std::vector<int> seen(n);
        // Where the range of each index ends.
        std::vector<int64_t> ends(n), ends_of_other(n);
        std::atomic<int> ranges{0};
        pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end, int thread) {
          ASSERT_EQ(begin % grain, 0);
          ASSERT_LT(thread, threads);
          ranges.fetch_add(1);
          for (int64_t i = begin; i < end; ++i) {
            ++seen[i];
            ends[i] = end;
          }
        });
        other.ParallelFor(n, grain, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) ends_of_other[i] = end;
        });
        EXPECT_EQ(seen, std::vector<int>(n, 1));
        EXPECT_EQ(ends, ends_of_other);
        const int64_t most = threads == 1 ? 1 : threads * ThreadPool::kPiecesPerThread;
        EXPECT_EQ(ranges.load(), std::min((n + grain - 1) / grain, most));
      }
    }
  }
}

TEST(ThreadPool, ReturnsWhenAllPartsAreDone) {
  ThreadPool pool(3);
  for (int round = 0; round < 2000; ++round) {
    std::atomic<int> parts{0};
    pool.ParallelFor(40, 1, [&](int64_t begin, int64_t end, int) {
      parts.fetch_add(static_cast<int>(end - begin));
    });
    ASSERT_EQ(parts.load(), 40);
  }
}

// Whichever thread begins first stands until all other pieces are done, though a share of them is
// its own.
TEST(ThreadPool, AThreadThatStandsHoldsUpNoMoreThanItsPiece) {
  for (int threads : {2, 3}) {
    ThreadPool pool(threads);
    const int64_t n = threads * ThreadPool::kPiecesPerThread;
    for (int round = 0; round < 200; ++round) {
      std::atomic<bool> first{true};
      std::atomic<int64_t> done{0};
      pool.ParallelFor(n, 1, [&](int64_t begin, int64_t end, int) {
        if (first.exchange(false)) {
          ASSERT_EQ(end - begin, 1);
          const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
          while (done.load() != n - 1 && std::chrono::steady_clock::now() < deadline) {
            std::this_thread::yield();
          }
          EXPECT_EQ(done.load(), n - 1) << "others did not take over";
        }
        done.fetch_add(end - begin);
      });
      ASSERT_EQ(done.load(), n);
      if (HasFailure()) return;
    }
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
