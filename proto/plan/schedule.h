// The groups of a layout and the collectives of one step, in the order in which the forward pass
// calls them (docs/plan-format.md has the list).
#pragma once

#include <vector>

#include "proto/plan/layout.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Groups of more than one rank: "world", "tp<dp group>", and where there are experts
// "moe_tp<ep group>". A world of one has none.
std::vector<v1::Group> GroupsOf(const v1::ModelSpec& model, const v1::Layout& layout);

// Indices into GroupsOf() of the groups that hold `rank`, ascending: world, tp, moe_tp.
std::vector<uint32_t> GroupsOfRank(const v1::ModelSpec& model, const v1::Layout& layout, int rank);

// bytes_per_token: the most that this rank sends to all other ranks together for each token, in a
// step with equally many tokens in every DP group; fixed_bytes: the same for each sequence that
// samples.
v1::StepSchedule ScheduleOf(const v1::ModelSpec& model, const v1::Layout& layout,
                            const v1::RuntimeSpec& runtime, int rank);

}  // namespace whalepod
