// The memory model: what each rank's memory is spent on, and whether it fits.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/plan/planner.h"

namespace whalepod {

// Fills runtime.kv_bytes_per_rank and max_model_len (where they are 0) and every rank's ledger.
// The plan has its model, layout, hosts, groups and ranks, with `weight_bytes` by rank.
absl::Status FillLedgers(const PlanRequest& request, const std::vector<int64_t>& weight_bytes,
                         v1::ShardingPlan* plan);

}  // namespace whalepod
