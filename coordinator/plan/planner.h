// From a model and a layout to a plan: the only place where sharding is decided.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct PlanRequest {
  v1::ModelSpec model;
  // Gives element types and skipped tensors; not owned, may be null: then types are the published
  // ones (FP8 with block scales where the model has blocks, else BF16; the router's bias F32) and
  // `skipped` is empty but for what presets add.
  const Checkpoint* checkpoint = nullptr;

  int replicas = 1, pp = 1, dp = 1, tp = 1;
  // 0: chosen. Neither given: ep = 1, moe_tp = dp * tp. One given: the other follows.
  int ep = 0, moe_tp = 0;

  // Fields that are 0 get defaults, the same for a dry-run and a deployment: the input type of the
  // checkpoint (F32 if its embedding is, else BF16), no activation quantisation, 64-token blocks,
  // 16 sequences (CPU; 256 on GPUs), a prefill chunk of 512 beside a full batch of decodes a step
  // (CPU; 2,048 tokens on GPUs), as long a context as the KV pool allows, an even share of the
  // processors.
  v1::RuntimeSpec runtime;
  int64_t processors_per_host = 0;  // CPU; 0: not known, one thread a rank

  // Ranks fill hosts in order, one a device. Empty: one host "localhost" of unknown memory with a
  // device for each rank. Host.memory_bytes is that of all its devices together.
  std::vector<v1::Host> hosts;
  // GPUs: KV takes what utilization * memory leaves. CPUs: KV is kv_bytes_per_host, shared evenly.
  bool gpu = false;
  double gpu_memory_utilization = 0.9;
  int64_t kv_bytes_per_host = 0;  // 0: 512 MiB; CPU only
  int64_t reserve_bytes = 0;      // a rank; 0: 256 MiB (CPU), the rest of the device (GPU)
};

// A complete, hashed, unbound plan. Errors: INVALID_ARGUMENT
// (cannot be split: which dimension, which degrees work), UNIMPLEMENTED (pp, replicas),
// RESOURCE_EXHAUSTED (does not fit: both numbers and the largest items).
absl::StatusOr<v1::ShardingPlan> MakePlan(const PlanRequest& request);

// Adds files and extents of `checkpoint` to an unbound plan and hashes it anew.
// FAILED_PRECONDITION if the checkpoint's tensors are not the plan's.
absl::Status BindPlan(const Checkpoint& checkpoint, v1::ShardingPlan* plan);

// "dp2 tp2 ep4 moe_tp1", for people.
std::string LayoutName(const v1::Layout& layout);

}  // namespace whalepod
