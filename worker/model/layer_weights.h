// The weights of one layer as the blocks use them, bound once from the weight map.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/packing.h"
#include "worker/model/dims.h"
#include "worker/weights/weights.h"

namespace whalepod {

struct AttentionWeights {
  PlainTensor input_norm;           // [hidden]
  PackedMatrix q;                   // [heads * (nope + rope), hidden]; only if q_lora is 0
  PackedMatrix q_a;                 // [q_a, hidden]
  PlainTensor q_a_norm;             // [q_lora]
  PackedMatrix q_b;                 // [heads * (nope + rope), q_lora]
  PackedMatrix kv_a;                // [kv_a, hidden]
  PlainTensor kv_a_norm;            // [lora]
  std::vector<PackedMatrix> k_up;   // [heads] of [nope, lora]
  std::vector<PackedMatrix> k_upT;  // [heads] of [lora, nope]
  std::vector<PackedMatrix> v_up;   // [heads] of [v, lora]
  PackedMatrix o;                   // [hidden, heads * v]
};

// A SwiGLU FFN: the dense one of a layer, or the shared expert.
struct FfnWeights {
  PackedMatrix gate, up;  // [width, hidden]
  PackedMatrix down;      // [hidden, width]
};

struct MoeWeights {
  PackedMatrix router;                 // [experts, hidden]
  std::vector<float> router_bias;      // [experts]
  std::vector<PackedMatrix> gate, up;  // [local experts] of [expert_width, hidden]
  std::vector<PackedMatrix> down;      // [local experts] of [expert_columns, moe_intermediate]
  FfnWeights shared;                   // unused if dims.shared is 0
};

struct LayerWeights {
  AttentionWeights attention;
  PlainTensor post_norm;  // [hidden]
  bool is_moe = false;
  FfnWeights dense;  // of a dense layer
  MoeWeights moe;    // of a MoE layer
};

// Looks up every weight of a layer and compares its shape with `dims`; INVALID_ARGUMENT or
// NOT_FOUND names role and layer.
absl::StatusOr<LayerWeights> BindLayer(const Dims& dims, const WeightMap& weights, int64_t layer);

// One packed matrix of the role, [n, k]; INVALID_ARGUMENT names role, layer and both shapes.
absl::StatusOr<PackedMatrix> BindMatrix(const WeightMap& weights, v1::TensorRole role,
                                        int64_t layer, int64_t expert, int64_t n, int64_t k);
// A vector or row-major matrix of the role, [rows, cols].
absl::StatusOr<PlainTensor> BindPlain(const WeightMap& weights, v1::TensorRole role, int64_t layer,
                                      int64_t rows, int64_t cols);

}  // namespace whalepod
