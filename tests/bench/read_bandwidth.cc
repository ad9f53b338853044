#include "tests/bench/read_bandwidth.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "coordinator/cli/read_bandwidth.h"

namespace whalepod {
MemoryReader::MemoryReader(const void* data, int64_t bytes, cpu::ThreadPool& pool) : pool_(pool) {
  double best = 1e9;
  for (int way = 0; way < static_cast<int>(std::size(kReadWays)); ++way) {
    const auto start = std::chrono::steady_clock::now();
    ReadAs(way, data, bytes);
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (elapsed.count() < best) fastest_ = way;
    best = std::min(best, elapsed.count());
  }
}

void MemoryReader::ReadAs(int way, const void* data, int64_t bytes) {
  pool_.ParallelFor(bytes, 4096, [&](int64_t begin, int64_t end, int) {
    volatile uint64_t sink = kReadWays[way](static_cast<const char*>(data) + begin, end - begin);
    (void)sink;
  });
}

}  // namespace whalepod
