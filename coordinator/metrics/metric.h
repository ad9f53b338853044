// One value that is measured: what the engine's thread and transports write, and a scrape reads.
// Lock-free: a writer never waits, least of all for a reader.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace whalepod {

// Thread-safe.
class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  // Of a total that is kept elsewhere and only told here. Less than before is a reset, which
  // Prometheus' rate() knows.
  void SetTotal(uint64_t total) { value_.store(total, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

// Thread-safe.
class Gauge {
 public:
  void Set(double value) { value_.store(value, std::memory_order_relaxed); }
  double value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<double> value_{0};
};

// Thread-safe. Values are counted in buckets; a bound belongs to the bucket that it ends.
class Histogram {
 public:
  // `bounds` ascending and finite; one bucket more takes what is above the last.
  explicit Histogram(std::vector<double> bounds);

  void Observe(double value);

  struct Snapshot {
    std::vector<uint64_t> buckets;  // one more than bounds, not cumulative
    double sum = 0;
  };
  // What was observed before the call is in it; of what is observed meanwhile, the sum or the
  // bucket may be missing.
  Snapshot Read() const;
  uint64_t count() const;
  const std::vector<double>& bounds() const { return bounds_; }

 private:
  const std::vector<double> bounds_;
  const std::unique_ptr<std::atomic<uint64_t>[]> buckets_;
  std::atomic<double> sum_{0};
};

}  // namespace whalepod
