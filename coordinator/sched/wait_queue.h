// Who runs next: requests that wait, by priority, age and what each API key has had.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "base/clock.h"

namespace whalepod {

// Where a request stands among all: its arrival, later by `ageing` for each point of priority. Does
// not change with time, so that who overtakes whom is settled once.
struct QueuePlace {
  int64_t at = 0;   // nanoseconds
  uint64_t id = 0;  // breaks ties; never the same twice
  auto operator<=>(const QueuePlace&) const = default;
};

// The rules:
// - A lower priority number comes first. One that waits gains a point for each `ageing`, up to the
//   best priority that waits: nothing starves behind a stream of better ones.
// - At equal priority comes the API key that has had least (tokens computed, generated ones twice):
//   the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", 2024. A
//   key that was away does not save up: it comes back level with the least of those present.
// - A key's own requests come by place.
class WaitQueue {
 public:
  // What one API key has had.
  struct Tenant {
    double served = 0;
    uint32_t present = 0;  // its requests that wait or run
    std::set<QueuePlace> waiting;
  };

  explicit WaitQueue(Duration ageing) : ageing_(ageing) {}

  QueuePlace PlaceOf(uint64_t id, int32_t priority, TimePoint arrival) const {
    return {arrival.time_since_epoch().count() + priority * ageing_.count(), id};
  }

  // A request arrives or goes for good. The pointer stays valid for ever.
  Tenant* Enter(const std::string& name);
  static void Leave(Tenant* tenant) { --tenant->present; }

  void Push(Tenant* tenant, const QueuePlace& place, int32_t priority);
  void Remove(Tenant* tenant, const QueuePlace& place, int32_t priority);

  // The id of the one that comes next; none if none waits.
  std::optional<uint64_t> Next(TimePoint now) const;

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const std::map<int32_t, uint32_t>& by_priority() const { return by_priority_; }

 private:
  const Duration ageing_;
  std::map<std::string, Tenant> tenants_;
  std::map<int32_t, uint32_t> by_priority_;  // how many wait; none is 0
  size_t size_ = 0;
};

}  // namespace whalepod
