// How much happened a second, lately.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>

#include "base/clock.h"

namespace whalepod {

// Keeps totals of the last seconds, at most one a second. Thread-safe.
class RateMeter {
 public:
  static constexpr std::chrono::seconds kWindow{10};

  struct Totals {
    uint64_t prompt_tokens = 0;
    uint64_t generation_tokens = 0;
    uint64_t requests = 0;
  };
  // Averages over `over`, from the oldest totals within the window until now. What was noted before
  // the window does not count; all 0 where nothing else was.
  struct Rates {
    double prompt_tokens = 0, generation_tokens = 0, requests = 0;  // a second
    Duration over{0};
  };

  // Totals as they are at `now`; times do not go back. Seconds in which nothing is noted are taken
  // as ones in which nothing happened.
  void Note(TimePoint now, const Totals& totals);
  Rates Read(TimePoint now) const;

 private:
  struct Sample {
    TimePoint time{};
    Totals totals;
  };
  mutable std::mutex mu_;  // held for some comparisons and one copy
  std::deque<Sample> kept_;
  Sample latest_;
};

}  // namespace whalepod
