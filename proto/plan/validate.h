// Whether a plan is one that can be run: used on every plan before it is sent or executed, whatever
// it comes from.
#pragma once

#include "absl/status/status.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

constexpr uint32_t kPlanFormatVersion = 1;

// Checks an untrusted plan; never crashes, whatever bytes it was parsed from. In order:
// - model, layout and runtime are plausible and go together (check_spec.cc);
// - hosts, ranks, groups and strings are complete, indices in range;
// - every rank has exactly the slices of its coordinates, each under its tensor's name, and over
//   the coordinates they tile every tensor: each element is owned by the ranks it should be and by
//   no other;
// - destinations are aligned, disjoint and inside the weight arena;
// - bound plans: every extent is the slice's, and a tensor is at one place in one file;
// - ledgers have the five items, of plausible size, and fit their devices;
// - schedules: all members of a group call the same operations in the same order, and they are
//   those of the forward pass;
// - hashes.
// INVALID_ARGUMENT says where, what was expected and what was found; DATA_LOSS for hashes;
// RESOURCE_EXHAUSTED for a ledger that does not fit.
absl::Status ValidatePlan(const v1::ShardingPlan& plan);

// The checks of one rank's part that a worker can make: as above, for this rank alone.
absl::Status ValidatePlanPart(const v1::PlanPart& part);

}  // namespace whalepod
