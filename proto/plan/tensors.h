// The matrices and vectors of the architecture by role: their shapes, names and how ranks split
// them. The planner makes slices by this table and the validator checks them by it.
#pragma once

#include <cstdint>
#include <string>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

constexpr int kRoles = v1::TensorRole_ARRAYSIZE;  // roles are 1..kRoles-1

enum class Split {
  kReplicated,  // every rank has all of it
  kVocabRows,   // rows by vocabulary segments over tp
  kHeadRows,    // rows of whole heads over tp
  kKvB,         // a batch of heads over tp, one part of each head's rows
  kHeadCols,    // columns of whole heads over tp (K of o_proj)
  kTpRows,      // rows over tp
  kTpPanels,    // rows over tp, in whole panels of 32: any number of rows
  kTpCols,      // columns over tp (K of a down projection)
  kExpertRows,  // experts over ep, rows over moe_tp
};

struct TensorInfo {
  int64_t rows = 1;  // a vector is [1, cols]
  int64_t cols = 0;
  bool quantisable = false;  // FP8 in quantised checkpoints, with block scales
  bool expert = false;       // one for each routed expert
  bool layered = false;      // one for each layer that has it
  Split split = Split::kReplicated;
  v1::Transform transform = v1::TRANSFORM_COPY;
};

// The three forms of kv_b share one tensor. `role` must be 1..kRoles-1.
TensorInfo InfoOf(const v1::ModelSpec& model, v1::TensorRole role);

// Whether the model has `role` in `layer` (any layer for roles outside of layers: pass 0).
bool HasRole(const v1::ModelSpec& model, v1::TensorRole role, int64_t layer);

// The name in a Hugging Face checkpoint. A tied head is the embedding's tensor.
std::string TensorName(const v1::ModelSpec& model, v1::TensorRole role, int64_t layer,
                       int64_t expert, bool is_scale);

}  // namespace whalepod
