// A small right plan and ways to break it, one for each refusal that random changes hardly reach.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// dp 2, tp 2, ep 2, moe_tp 2: a dense and an expert layer, FP8 blocks of 20 x 24. Bound to
// FakeCheckpoint's three files if `bound`.
v1::ShardingPlan SmallPlan(bool bound);

struct BrokenPlan {
  std::string refusal;  // part of ValidatePlan's message
  // Changes SmallPlan(true); hashes are left stale.
  std::function<void(v1::ShardingPlan*)> change;
};
std::vector<BrokenPlan> BrokenPlans();

}  // namespace whalepod
