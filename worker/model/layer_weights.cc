#include "worker/model/layer_weights.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {
namespace {

absl::Status WrongShape(v1::TensorRole role, int64_t layer, int64_t n, int64_t k, int64_t found_n,
                        int64_t found_k) {
  return absl::InvalidArgumentError(absl::StrCat(v1::TensorRole_Name(role), " of layer ", layer,
                                                 ": expected [", n, ", ", k, "], the plan has [",
                                                 found_n, ", ", found_k, "]"));
}

// One matrix a head.
absl::StatusOr<std::vector<PackedMatrix>> BindHeads(const WeightMap& weights, v1::TensorRole role,
                                                    int64_t layer, int64_t heads, int64_t n,
                                                    int64_t k) {
  ASSIGN_OR_RETURN(std::vector<PackedMatrix> found, weights.Packed(role, layer));
  if (static_cast<int64_t>(found.size()) != heads) {
    return absl::InvalidArgumentError(absl::StrCat(v1::TensorRole_Name(role), " of layer ", layer,
                                                   ": expected ", heads, " heads, the plan has ",
                                                   found.size()));
  }
  for (const PackedMatrix& w : found) {
    if (w.n != n || w.k != k) return WrongShape(role, layer, n, k, w.n, w.k);
  }
  return found;
}

absl::StatusOr<AttentionWeights> BindAttention(const Dims& d, const WeightMap& weights,
                                               int64_t layer) {
  AttentionWeights w;
  ASSIGN_OR_RETURN(w.input_norm,
                   BindPlain(weights, v1::TENSOR_ROLE_INPUT_NORM, layer, 1, d.hidden));
  const int64_t q_width = d.heads * d.qk();
  if (d.q_lora == 0) {
    ASSIGN_OR_RETURN(w.q, BindMatrix(weights, v1::TENSOR_ROLE_Q, layer, 0, q_width, d.hidden));
  } else {
    ASSIGN_OR_RETURN(w.q_a,
                     BindMatrix(weights, v1::TENSOR_ROLE_Q_A, layer, 0, d.q_a.size(), d.hidden));
    ASSIGN_OR_RETURN(w.q_a_norm, BindPlain(weights, v1::TENSOR_ROLE_Q_A_NORM, layer, 1, d.q_lora));
    ASSIGN_OR_RETURN(w.q_b, BindMatrix(weights, v1::TENSOR_ROLE_Q_B, layer, 0, q_width, d.q_lora));
  }
  ASSIGN_OR_RETURN(w.kv_a,
                   BindMatrix(weights, v1::TENSOR_ROLE_KV_A, layer, 0, d.kv_a.size(), d.hidden));
  ASSIGN_OR_RETURN(w.kv_a_norm, BindPlain(weights, v1::TENSOR_ROLE_KV_A_NORM, layer, 1, d.lora));
  ASSIGN_OR_RETURN(w.k_up,
                   BindHeads(weights, v1::TENSOR_ROLE_KV_B_K, layer, d.heads, d.nope, d.lora));
  ASSIGN_OR_RETURN(w.k_upT,
                   BindHeads(weights, v1::TENSOR_ROLE_KV_B_KT, layer, d.heads, d.lora, d.nope));
  ASSIGN_OR_RETURN(w.v_up, BindHeads(weights, v1::TENSOR_ROLE_KV_B_V, layer, d.heads, d.v, d.lora));
  ASSIGN_OR_RETURN(w.o, BindMatrix(weights, v1::TENSOR_ROLE_O, layer, 0, d.hidden, d.heads * d.v));
  return w;
}

absl::StatusOr<FfnWeights> BindFfn(const Dims& d, const WeightMap& weights, int64_t layer,
                                   v1::TensorRole gate, v1::TensorRole up, v1::TensorRole down,
                                   int64_t width) {
  FfnWeights w;
  ASSIGN_OR_RETURN(w.gate, BindMatrix(weights, gate, layer, 0, width, d.hidden));
  ASSIGN_OR_RETURN(w.up, BindMatrix(weights, up, layer, 0, width, d.hidden));
  ASSIGN_OR_RETURN(w.down, BindMatrix(weights, down, layer, 0, d.hidden, width));
  return w;
}

// The bias is F32 in R1's files; others store it in BF16.
absl::StatusOr<std::vector<float>> BindBias(const Dims& d, const WeightMap& weights,
                                            int64_t layer) {
  ASSIGN_OR_RETURN(PlainTensor bias,
                   BindPlain(weights, v1::TENSOR_ROLE_ROUTER_BIAS, layer, 1, d.experts));
  std::vector<float> values(d.experts);
  for (int64_t e = 0; e < d.experts; ++e) {
    switch (bias.dtype) {
      case DType::kF32:
        values[e] = static_cast<const float*>(bias.data)[e];
        break;
      case DType::kBF16:
        values[e] = ToFloat(static_cast<const BF16*>(bias.data)[e]);
        break;
      case DType::kF16:
        values[e] = F16ToFloat(static_cast<const uint16_t*>(bias.data)[e]);
        break;
      case DType::kF8E4M3:
        return absl::InvalidArgumentError(
            absl::StrCat("router bias of layer ", layer, " is FP8; expected F32, BF16 or F16"));
    }
  }
  return values;
}

absl::StatusOr<MoeWeights> BindMoe(const Dims& d, const WeightMap& weights, int64_t layer) {
  MoeWeights w;
  ASSIGN_OR_RETURN(w.router,
                   BindMatrix(weights, v1::TENSOR_ROLE_ROUTER, layer, 0, d.experts, d.hidden));
  if (weights.Has(v1::TENSOR_ROLE_ROUTER_BIAS, layer)) {
    ASSIGN_OR_RETURN(w.router_bias, BindBias(d, weights, layer));
  }
  for (int e : d.local_experts) {
    ASSIGN_OR_RETURN(PackedMatrix gate, BindMatrix(weights, v1::TENSOR_ROLE_EXPERT_GATE, layer, e,
                                                   d.expert_width.size(), d.hidden));
    ASSIGN_OR_RETURN(PackedMatrix up, BindMatrix(weights, v1::TENSOR_ROLE_EXPERT_UP, layer, e,
                                                 d.expert_width.size(), d.hidden));
    ASSIGN_OR_RETURN(PackedMatrix down, BindMatrix(weights, v1::TENSOR_ROLE_EXPERT_DOWN, layer, e,
                                                   d.expert_columns.size(), d.moe_intermediate));
    w.gate.push_back(gate);
    w.up.push_back(up);
    w.down.push_back(down);
  }
  if (d.shared > 0) {
    ASSIGN_OR_RETURN(
        w.shared, BindFfn(d, weights, layer, v1::TENSOR_ROLE_SHARED_GATE, v1::TENSOR_ROLE_SHARED_UP,
                          v1::TENSOR_ROLE_SHARED_DOWN, d.shared));
  }
  return w;
}

}  // namespace

absl::StatusOr<PackedMatrix> BindMatrix(const WeightMap& weights, v1::TensorRole role,
                                        int64_t layer, int64_t expert, int64_t n, int64_t k) {
  ASSIGN_OR_RETURN(std::vector<PackedMatrix> found, weights.Packed(role, layer, expert));
  if (found.size() != 1 || found[0].n != n || found[0].k != k) {
    return WrongShape(role, layer, n, k, found.empty() ? 0 : found[0].n,
                      found.empty() ? 0 : found[0].k);
  }
  return found[0];
}

absl::StatusOr<PlainTensor> BindPlain(const WeightMap& weights, v1::TensorRole role, int64_t layer,
                                      int64_t rows, int64_t cols) {
  ASSIGN_OR_RETURN(PlainTensor found, weights.Plain(role, layer));
  if (found.rows != rows || found.cols != cols) {
    return WrongShape(role, layer, rows, cols, found.rows, found.cols);
  }
  return found;
}

absl::StatusOr<LayerWeights> BindLayer(const Dims& dims, const WeightMap& weights, int64_t layer) {
  LayerWeights w;
  ASSIGN_OR_RETURN(w.attention, BindAttention(dims, weights, layer));
  ASSIGN_OR_RETURN(w.post_norm,
                   BindPlain(weights, v1::TENSOR_ROLE_POST_NORM, layer, 1, dims.hidden));
  w.is_moe = weights.Has(v1::TENSOR_ROLE_ROUTER, layer);
  if (w.is_moe) {
    ASSIGN_OR_RETURN(w.moe, BindMoe(dims, weights, layer));
  } else {
    ASSIGN_OR_RETURN(w.dense, BindFfn(dims, weights, layer, v1::TENSOR_ROLE_GATE,
                                      v1::TENSOR_ROLE_UP, v1::TENSOR_ROLE_DOWN, dims.intermediate));
  }
  return w;
}

}  // namespace whalepod
