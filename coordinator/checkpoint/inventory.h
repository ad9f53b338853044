// The tensors an R1-architecture model is made of: names, shapes and roles, from its ModelSpec
// alone. The one list that checkpoint validation, presets and the planner share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct InventoryTensor {
  std::string name;     // as in the checkpoint
  v1::TensorRole role;  // kv_b_proj has KV_B_K; the planner makes its three forms
  int64_t layer = 0;    // 0 where there is none
  int64_t expert = 0;   // 0 where there is none
  int64_t rows = 1;     // a vector is [1, cols]
  int64_t cols = 0;
  bool vector = false;  // stored with one dimension
  // A matrix that FP8 checkpoints store as E4M3 with a scale grid beside it.
  bool quantisable = false;
  // This entry is such a grid: [ceil(rows of the weight / block), ceil(cols / block)] F32.
  bool is_scale = false;
};

// Every tensor of the main model in checkpoint order (embedding, layers, norm, head). With
// fp8_block_rows > 0 each quantisable weight is followed by its scales, named
// "<weight name>_scale_inv". A tied head has no lm_head entry.
std::vector<InventoryTensor> Inventory(const v1::ModelSpec& model);

// Layers from first_k_dense_replace on whose index moe_layer_freq divides, if there are experts.
bool IsMoeLayer(const v1::ModelSpec& model, int64_t layer);

// The L of "model.layers.L.<...>"; -1 for any other name.
int64_t LayerOfTensor(absl::string_view name);

// True for names of the multi-token-prediction layers (index >= num_hidden_layers), which are
// listed as skipped.
bool IsNextnTensor(const v1::ModelSpec& model, const std::string& name);

}  // namespace whalepod
