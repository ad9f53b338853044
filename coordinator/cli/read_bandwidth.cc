#include "coordinator/cli/read_bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <thread>
#include <vector>

namespace whalepod {
namespace {

constexpr int64_t kBytesPerThread = int64_t{384} << 20;
constexpr int64_t kHugePage = 2 << 20;
constexpr int kPasses = 4;  // of each way

#if defined(__x86_64__) && !defined(__clang__)  // which clones no templates
#define WHALEPOD_READ_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define WHALEPOD_READ_CLONES
#endif

using Vector = uint64_t __attribute__((vector_size(64), aligned(64), may_alias));

// Reads [data, data + bytes) as `streams` streams side by side, asking for lines `ahead` bytes
// before they are needed (0: not at all).
template <int streams, int64_t ahead>
WHALEPOD_READ_CLONES uint64_t Read(const char* data, int64_t bytes) {
  const int64_t part = bytes / streams / 256 * 256;
  Vector sum[4] = {};
  for (int64_t i = 0; i < part; i += 256) {
    for (int s = 0; s < streams; ++s) {
      const char* line = data + s * part + i;
      for (int j = 0; j < 4; ++j) {
        if constexpr (ahead > 0) __builtin_prefetch(line + ahead + j * 64);
        sum[j] |= *reinterpret_cast<const Vector*>(line + j * 64);
      }
    }
  }
  const Vector all = sum[0] | sum[1] | sum[2] | sum[3];
  return all[0] | all[1] | all[2] | all[3] | all[4] | all[5] | all[6] | all[7];
}

using Seconds = std::chrono::duration<double>;

}  // namespace

const std::array<ReadFn, 6> kReadWays = {Read<1, 0>, Read<1, 1024>, Read<1, 4096>,
                                         Read<4, 0>, Read<4, 1024>, Read<4, 4096>};

double MeasureReadBandwidth(int threads) {
  const int64_t bytes = kBytesPerThread * threads;
  const std::unique_ptr<char, decltype(&std::free)> data(
      static_cast<char*>(std::aligned_alloc(kHugePage, bytes)), &std::free);
  if (data == nullptr) return 0;
  madvise(data.get(), bytes, MADV_HUGEPAGE);
  std::chrono::steady_clock::time_point start;
  double best = 0;
  // Runs when all threads have arrived: before the first pass, and after each.
  const auto lap = [&]() noexcept {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = Seconds(now - start).count();
    if (start != std::chrono::steady_clock::time_point()) {
      best = std::max(best, static_cast<double>(bytes) / seconds);
    }
    start = now;
  };
  std::barrier barrier(threads, lap);
  std::vector<std::thread> readers;
  for (int t = 0; t < threads; ++t) {
    readers.emplace_back([&, t] {
      char* const part = data.get() + t * kBytesPerThread;
      std::fill_n(part, kBytesPerThread, static_cast<char>(t + 1));
      barrier.arrive_and_wait();
      for (int pass = 0; pass < kPasses; ++pass) {
        for (const ReadFn read : kReadWays) {
          volatile uint64_t sink = read(part, kBytesPerThread);
          (void)sink;
          barrier.arrive_and_wait();
        }
      }
    });
  }
  for (std::thread& reader : readers) reader.join();
  return best;
}

}  // namespace whalepod
