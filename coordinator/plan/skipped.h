// Tensors that a checkpoint has and the plan leaves out: the multi-token-prediction layers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/checkpoint/checkpoint.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct SkippedInfo {
  std::string name;
  int64_t bytes = 0;
};

// What a published checkpoint of `model` has beyond the main model, from the ModelSpec alone.
std::vector<SkippedInfo> NextnTensors(const v1::ModelSpec& model);

// Lists `checkpoint`'s skipped tensors in the plan, or without one NextnTensors().
void AddSkipped(const Checkpoint* checkpoint, v1::ShardingPlan* plan);

}  // namespace whalepod
