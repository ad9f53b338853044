#include "coordinator/metrics/metric.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace whalepod {

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), buckets_(new std::atomic<uint64_t>[bounds_.size() + 1]()) {
  CHECK(std::is_sorted(bounds_.begin(), bounds_.end(), std::less_equal<>()));
  CHECK(bounds_.empty() || std::isfinite(bounds_.back()));
}

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value);
  buckets_[bucket - bounds_.begin()].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

Histogram::Snapshot Histogram::Read() const {
  Snapshot snapshot;
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    snapshot.buckets.push_back(buckets_[i].load(std::memory_order_relaxed));
  }
  snapshot.sum = sum_.load(std::memory_order_relaxed);
  return snapshot;
}

uint64_t Histogram::count() const {
  uint64_t count = 0;
  for (size_t i = 0; i <= bounds_.size(); ++i) count += buckets_[i].load(std::memory_order_relaxed);
  return count;
}

}  // namespace whalepod
