#include "coordinator/sched/wait_queue.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"

namespace whalepod {

WaitQueue::Tenant* WaitQueue::Enter(const std::string& name) {
  Tenant& tenant = tenants_[name];
  if (tenant.present++ > 0) return &tenant;
  std::optional<double> least;
  for (const auto& [other_name, other] : tenants_) {
    if (&other == &tenant || other.present == 0) continue;
    least = std::min(least.value_or(other.served), other.served);
  }
  if (least) tenant.served = std::max(tenant.served, *least);
  return &tenant;
}

void WaitQueue::Push(Tenant* tenant, const QueuePlace& place, int32_t priority) {
  CHECK(tenant->waiting.insert(place).second);
  ++by_priority_[priority];
  ++size_;
}

void WaitQueue::Remove(Tenant* tenant, const QueuePlace& place, int32_t priority) {
  CHECK_EQ(tenant->waiting.erase(place), 1u);
  const auto it = by_priority_.find(priority);
  if (--it->second == 0) by_priority_.erase(it);
  --size_;
}

std::optional<uint64_t> WaitQueue::Next(TimePoint now) const {
  if (size_ == 0) return std::nullopt;
  // Where one of the best priority would stand if it came now.
  const int64_t best = PlaceOf(0, by_priority_.begin()->first, now).at;
  const int64_t point = std::max<int64_t>(1, ageing_.count());
  const Tenant* next = nullptr;
  std::tuple<int64_t, double, QueuePlace> least;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant.waiting.empty()) continue;
    const QueuePlace& head = *tenant.waiting.begin();
    // Points of priority that it has yet to gain.
    const int64_t behind = head.at > best ? (head.at - best + point - 1) / point : 0;
    const std::tuple<int64_t, double, QueuePlace> order(behind, tenant.served, head);
    if (next != nullptr && order >= least) continue;
    next = &tenant;
    least = order;
  }
  return next->waiting.begin()->id;
}

}  // namespace whalepod
