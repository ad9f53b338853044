// Sends a load: each request when it is due, so many at a time at most.
#pragma once

#include <cstddef>
#include <vector>

#include "base/clock.h"
#include "coordinator/cli/bench/statistics.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Seconds from the start of a load.
class LoadClock {
 public:
  explicit LoadClock(const Clock* clock) : clock_(clock), start_(clock->Now()) {}
  TimePoint start() const { return start_; }
  double Now() const { return std::chrono::duration<double>(clock_->Now() - start_).count(); }

 private:
  const Clock* const clock_;
  const TimePoint start_;
};

// Where requests go.
class LoadTarget {
 public:
  virtual ~LoadTarget() = default;
  // Runs one request to its end, which is the thread's until then; fills `chunks`, the counts and,
  // where it did not complete, `failure`. From any thread. Never waits for ever for a dead server.
  virtual void Run(const v1::GenerateRequest& request, const LoadClock& clock,
                   LoadRecord* record) = 0;
};

struct LoadRun {
  std::vector<LoadRecord> records;  // as the requests
  double duration = 0;              // seconds until the last one ended
  double cpu_seconds = 0;           // of this process meanwhile, user and system
};

// Request i is sent at arrivals[i] (seconds, ascending), or later: as soon as fewer than
// `max_concurrency` are under way; 0: no limit. A thread for each that is under way.
LoadRun RunLoad(LoadTarget& target, const std::vector<v1::GenerateRequest>& requests,
                const std::vector<double>& arrivals, size_t max_concurrency);

}  // namespace whalepod
