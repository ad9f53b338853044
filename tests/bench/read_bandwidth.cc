#include "tests/bench/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <iterator>

namespace whalepod {
namespace {

using Vector = uint64_t __attribute__((vector_size(64), aligned(64), may_alias));

// Reads [data, data + bytes) as `streams` streams side by side, asking for lines `ahead` bytes
// before they are needed (0: not at all).
template <int streams, int64_t ahead>
__attribute__((target_clones("avx512f", "avx2", "default"))) uint64_t Read(const char* data,
                                                                           int64_t bytes) {
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

using ReadFn = uint64_t (*)(const char*, int64_t);
constexpr ReadFn kWays[] = {Read<1, 0>, Read<1, 1024>, Read<1, 4096>,
                            Read<4, 0>, Read<4, 1024>, Read<4, 4096>};

}  // namespace

MemoryReader::MemoryReader(const void* data, int64_t bytes, cpu::ThreadPool& pool) : pool_(pool) {
  double best = 1e9;
  for (int way = 0; way < static_cast<int>(std::size(kWays)); ++way) {
    const auto start = std::chrono::steady_clock::now();
    ReadAs(way, data, bytes);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (elapsed.count() < best) fastest_ = way;
    best = std::min(best, elapsed.count());
  }
}

void MemoryReader::ReadAs(int way, const void* data, int64_t bytes) {
  pool_.ParallelFor(bytes, 4096, [&](int64_t begin, int64_t end, int) {
    volatile uint64_t sink = kWays[way](static_cast<const char*>(data) + begin, end - begin);
    (void)sink;
  });
}

}  // namespace whalepod
