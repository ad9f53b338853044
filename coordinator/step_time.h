// How long a step may sensibly take: a pessimist's estimate, for telling a slow step from a stuck
// one. Not for planning.
#pragma once

#include "base/clock.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

class StepTime {
 public:
  explicit StepTime(const v1::ShardingPlan& plan);
  // Every rank reads all its weights once at a slow disk's pace and computes at a slow core's.
  Duration Of(const v1::StepPlan& step) const;

 private:
  double weight_seconds_ = 0;  // the largest rank's weights
  double token_seconds_ = 0;  // a token's share of the work, attention over a full context included
};

}  // namespace whalepod
