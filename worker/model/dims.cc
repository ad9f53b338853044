#include "worker/model/dims.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/model/rope.h"

namespace whalepod {
namespace {

void FillModel(const v1::ModelSpec& model, Dims& d) {
  d.hidden = model.hidden_size();
  d.layers = model.num_hidden_layers();
  d.vocab = model.vocab_size();
  d.q_lora = model.q_lora_rank();
  d.lora = model.kv_lora_rank();
  d.nope = model.qk_nope_head_dim();
  d.rope = model.qk_rope_head_dim();
  d.v = model.v_head_dim();
  d.experts = model.n_routed_experts();
  d.expert_groups = std::max<int64_t>(1, model.n_group());
  d.top_groups = std::max<int64_t>(1, model.topk_group());
  d.top_k = d.experts > 0 ? model.num_experts_per_tok() : 0;
  d.moe_intermediate = d.experts > 0 ? model.moe_intermediate_size() : 0;
  d.normalise_routes = model.norm_topk_prob();
  d.route_scale = static_cast<float>(model.routed_scaling_factor());
  d.eps = static_cast<float>(model.rms_norm_eps());
  d.attention_scale = AttentionScale(model);
  if (model.fp8_block_cols() > 0) d.fp8_block_k = model.fp8_block_cols();
}

void FillShare(const v1::ModelSpec& model, const v1::Layout& layout, Dims& d) {
  d.heads = model.num_attention_heads() / d.tp;
  d.intermediate = model.intermediate_size() / d.tp;
  const int64_t shared = d.experts > 0 ? model.n_shared_experts() * d.moe_intermediate : 0;
  d.shared = shared / d.tp;
  d.slice = d.SliceOf(d.at.tp);
  d.q_a = d.QaOf(d.at.tp);
  d.kv_a = d.KvaOf(d.at.tp);
  d.expert_columns = d.ExpertColumnsOf(d.at.moe_tp);
  d.expert_width = d.ExpertWidthOf(d.at.moe_tp);
  if (d.experts > 0) d.local_experts = ExpertsOf(layout, d.at.ep);
  d.vocab_segments = VocabSegmentsOf(layout, d.at.tp);
  d.vocab_ids = VocabIdsOf(model, layout, d.at.tp);
  d.o_segment = model.num_attention_heads() * d.v / OProjSegments(model);
  d.dense_segment =
      model.intermediate_size() > 0 ? model.intermediate_size() / DenseDownSegments(model) : 0;
  d.shared_segment = shared > 0 ? shared / SharedDownSegments(model) : 0;
}

}  // namespace

absl::StatusOr<Dims> Dims::Of(const v1::PlanPart& part) {
  const v1::ShardingPlan& plan = part.header();
  const v1::Layout& layout = plan.layout();
  const v1::RuntimeSpec& runtime = plan.runtime();
  Dims d;
  d.at = CoordsOf(layout, static_cast<int>(part.part().rank()));
  d.tp = layout.tp();
  d.dp = layout.dp();
  d.ep = layout.ep();
  d.moe_tp = layout.moe_tp();
  d.first_rank = d.at.replica * layout.pp() * ReplicaSize(layout);
  if (layout.pp() != 1 || part.part().layer_begin() != 0 ||
      part.part().layer_end() != plan.model().num_hidden_layers()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", part.part().rank(), ": a rank runs all layers, the plan gives it [",
                     part.part().layer_begin(), ", ", part.part().layer_end(), ") of ",
                     plan.model().num_hidden_layers(), " in ", layout.pp(), " stages"));
  }
  FillModel(plan.model(), d);
  FillShare(plan.model(), layout, d);
  d.type = runtime.compute_dtype() == v1::DTYPE_F32 ? DType::kF32 : DType::kBF16;
  d.w8a8 = runtime.activation_quant() == v1::ACTIVATION_QUANT_FP8;
  d.max_tokens = runtime.max_num_batched_tokens();
  d.max_seqs = runtime.max_num_seqs();
  const int64_t block = runtime.kv_block_tokens();
  d.max_positions = (runtime.max_model_len() + block - 1) / block * block;
  return d;
}

}  // namespace whalepod
