// What benchmarks share: timing of calls and the threads they use.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <vector>

namespace whalepod {

// WHALEPOD_BENCH_THREADS, or 2.
inline int BenchThreads() {
  const char* variable = std::getenv("WHALEPOD_BENCH_THREADS");
  return variable != nullptr ? std::atoi(variable) : 2;
}

// How long `fn()` takes.
template <typename Fn>
double Seconds(const Fn& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return elapsed.count();
}

// Of at least one value.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace whalepod
