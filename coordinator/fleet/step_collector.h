// Puts the answers of all ranks to a step together. Pure.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/sched/engine.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

class StepCollector {
 public:
  explicit StepCollector(const v1::Layout& layout);

  // A step of `tokens` went out at `now`; it may take `limit` from when it is the oldest.
  void Expect(uint64_t step, Duration limit, TimePoint now, uint64_t tokens = 0);

  // A rank's answer. The outcome once the step's last rank has answered. INTERNAL: the answer to a
  // step not due from this rank, ranks of a DP group whose digests differ (both, with ranks), or a
  // malformed expert load.
  absl::StatusOr<std::optional<StepOutcome>> Add(int rank, v1::StepResult result, TimePoint now);

  // Ranks that have not answered the oldest step, if it is late at `now`; empty if it is not.
  std::vector<int> Late(TimePoint now) const;
  // Nobody could answer for `pause` until `now`: it does not count.
  void Forgive(Duration pause, TimePoint now);
  // The oldest step without all its answers; 0: none.
  uint64_t OldestStep() const { return pending_.empty() ? 0 : pending_.front().step; }
  Duration OldestLimit() const { return pending_.empty() ? Duration(0) : pending_.front().limit; }

 private:
  struct Pending {
    uint64_t step = 0;
    Duration limit{0};
    int answers = 0;
    std::vector<bool> answered;               // by rank
    std::vector<std::optional<int>> witness;  // by DP group: the first rank that answered
    std::vector<uint64_t> digest;             // and its digest
    StepOutcome outcome;
  };

  int group_of(int rank) const { return rank / tp_; }

  const int tp_;
  const int groups_;
  std::deque<Pending> pending_;
  TimePoint oldest_since_{};
};

}  // namespace whalepod
