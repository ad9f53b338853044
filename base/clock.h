// Time is injected: nothing below main() reads a clock of its own.
#pragma once

#include <chrono>
#include <mutex>

namespace whalepod {

using Duration = std::chrono::nanoseconds;
// A point on the monotonic clock. Never sent over the wire: there, remaining milliseconds are.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

constexpr TimePoint kNoDeadline = TimePoint::max();

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint Now() const = 0;

  // The process's steady clock; never null, lives for ever.
  static const Clock* Real();
};

// A clock that moves only when told to. Thread-safe.
class FakeClock : public Clock {
 public:
  TimePoint Now() const override;
  void Advance(Duration by);

 private:
  mutable std::mutex mu_;
  TimePoint now_{};
};

}  // namespace whalepod
