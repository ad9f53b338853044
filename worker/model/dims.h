// The shapes one rank works with, derived from its plan part: the letters in the shape comments of
// the blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "proto/plan/layout.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct Dims {
  // Where the rank stands.
  RankCoords at;
  int tp = 1, dp = 1, ep = 1, moe_tp = 1;
  int first_rank = 0;  // global rank of position 0 of this rank's replica

  // The model.
  int64_t hidden = 0;
  int64_t layers = 0;
  int64_t vocab = 0;
  int64_t q_lora = 0;  // 0: none
  int64_t lora = 0, nope = 0, rope = 0, v = 0;
  int64_t experts = 0, expert_groups = 1, top_groups = 1, top_k = 0;
  int64_t moe_intermediate = 0;
  bool normalise_routes = true;
  float route_scale = 1;
  float eps = 1e-6f;
  float attention_scale = 1;

  // This rank's share.
  int64_t heads = 0;               // of its TP slice
  int64_t intermediate = 0;        // dense FFN columns
  int64_t shared = 0;              // shared expert columns; 0: none
  Range q_a, kv_a;                 // outputs of q_a and kv_a that it makes
  Range slice;                     // hidden columns it sums and owns in its TP group
  Range expert_columns;            // columns of expert outputs it makes
  Range expert_width;              // SwiGLU columns it makes of each of its experts
  std::vector<int> local_experts;  // ascending
  Range vocab_segments, vocab_ids;

  // Columns of one summation segment of K.
  int64_t o_segment = 0, dense_segment = 0, shared_segment = 0;

  // Run time.
  DType type = DType::kBF16;  // activation type
  bool w8a8 = false;
  int64_t fp8_block_k = 128;
  int64_t max_tokens = 0;  // T: rows of one DP group in a step
  int64_t max_seqs = 0;
  int64_t max_positions = 0;  // max_model_len up to whole blocks

  int64_t all_tokens() const { return max_tokens * dp; }
  int64_t qk() const { return nope + rope; }
  int64_t latent() const { return lora + rope; }
  Range SliceOf(int tp_rank) const { return EvenPart(hidden, tp, tp_rank); }
  Range QaOf(int tp_rank) const { return PanelPart(q_lora, tp, tp_rank); }
  Range KvaOf(int tp_rank) const { return PanelPart(latent(), tp, tp_rank); }
  Range ExpertColumnsOf(int moe_tp_rank) const { return EvenPart(hidden, moe_tp, moe_tp_rank); }
  Range ExpertWidthOf(int moe_tp_rank) const {
    return EvenPart(moe_intermediate, moe_tp, moe_tp_rank);
  }

  // INVALID_ARGUMENT for a part this forward can't run (several pipeline stages).
  static absl::StatusOr<Dims> Of(const v1::PlanPart& part);
};

}  // namespace whalepod
