#include "proto/plan/tensors.h"

#include "absl/strings/str_cat.h"
#include "proto/plan/layout.h"

namespace whalepod {
namespace {

TensorInfo Vector(int64_t size) { return {.cols = size}; }

TensorInfo Matrix(int64_t rows, int64_t cols, Split split) {
  return {.rows = rows,
          .cols = cols,
          .quantisable = true,
          .split = split,
          .transform = v1::TRANSFORM_PACK};
}

TensorInfo Plain(TensorInfo info) {
  info.quantisable = false;
  return info;
}

TensorInfo ShapeOf(const v1::ModelSpec& m, v1::TensorRole role) {
  const int64_t hidden = m.hidden_size();
  const int64_t heads = m.num_attention_heads();
  const int64_t qk = m.qk_nope_head_dim() + m.qk_rope_head_dim();
  const int64_t moe = m.moe_intermediate_size();
  const int64_t shared = m.n_shared_experts() * moe;
  switch (role) {
    case v1::TENSOR_ROLE_EMBED: {
      TensorInfo info = Plain(Matrix(m.vocab_size(), hidden, Split::kVocabRows));
      info.transform = v1::TRANSFORM_COPY;
      return info;
    }
    case v1::TENSOR_ROLE_LM_HEAD:
      return Plain(Matrix(m.vocab_size(), hidden, Split::kVocabRows));
    case v1::TENSOR_ROLE_FINAL_NORM:
    case v1::TENSOR_ROLE_INPUT_NORM:
    case v1::TENSOR_ROLE_POST_NORM:
      return Vector(hidden);
    case v1::TENSOR_ROLE_Q:
      return Matrix(heads * qk, hidden, Split::kHeadRows);
    case v1::TENSOR_ROLE_Q_A:
      return Matrix(m.q_lora_rank(), hidden, Split::kTpPanels);
    case v1::TENSOR_ROLE_Q_A_NORM:
      return Vector(m.q_lora_rank());
    case v1::TENSOR_ROLE_Q_B:
      return Matrix(heads * qk, m.q_lora_rank(), Split::kHeadRows);
    case v1::TENSOR_ROLE_KV_A:
      return Matrix(m.kv_lora_rank() + m.qk_rope_head_dim(), hidden, Split::kTpPanels);
    case v1::TENSOR_ROLE_KV_A_NORM:
      return Vector(m.kv_lora_rank());
    case v1::TENSOR_ROLE_KV_B_K:
    case v1::TENSOR_ROLE_KV_B_KT:
    case v1::TENSOR_ROLE_KV_B_V: {
      TensorInfo info =
          Matrix(heads * (m.qk_nope_head_dim() + m.v_head_dim()), m.kv_lora_rank(), Split::kKvB);
      if (role == v1::TENSOR_ROLE_KV_B_KT) info.transform = v1::TRANSFORM_PACK_TRANSPOSED;
      return info;
    }
    case v1::TENSOR_ROLE_O:
      return Matrix(hidden, heads * m.v_head_dim(), Split::kHeadCols);
    case v1::TENSOR_ROLE_GATE:
    case v1::TENSOR_ROLE_UP:
      return Matrix(m.intermediate_size(), hidden, Split::kTpRows);
    case v1::TENSOR_ROLE_DOWN:
      return Matrix(hidden, m.intermediate_size(), Split::kTpCols);
    case v1::TENSOR_ROLE_ROUTER:
      return Plain(Matrix(m.n_routed_experts(), hidden, Split::kReplicated));
    case v1::TENSOR_ROLE_ROUTER_BIAS:
      return Vector(m.n_routed_experts());
    case v1::TENSOR_ROLE_EXPERT_GATE:
    case v1::TENSOR_ROLE_EXPERT_UP:
      return Matrix(moe, hidden, Split::kExpertRows);
    case v1::TENSOR_ROLE_EXPERT_DOWN:
      return Matrix(hidden, moe, Split::kExpertRows);
    case v1::TENSOR_ROLE_SHARED_GATE:
    case v1::TENSOR_ROLE_SHARED_UP:
      return Matrix(shared, hidden, Split::kTpRows);
    case v1::TENSOR_ROLE_SHARED_DOWN:
      return Matrix(hidden, shared, Split::kTpCols);
    default:
      return {};
  }
}

const char* LayerSuffix(v1::TensorRole role) {
  switch (role) {
    case v1::TENSOR_ROLE_INPUT_NORM:
      return "input_layernorm.weight";
    case v1::TENSOR_ROLE_POST_NORM:
      return "post_attention_layernorm.weight";
    case v1::TENSOR_ROLE_Q:
      return "self_attn.q_proj.weight";
    case v1::TENSOR_ROLE_Q_A:
      return "self_attn.q_a_proj.weight";
    case v1::TENSOR_ROLE_Q_A_NORM:
      return "self_attn.q_a_layernorm.weight";
    case v1::TENSOR_ROLE_Q_B:
      return "self_attn.q_b_proj.weight";
    case v1::TENSOR_ROLE_KV_A:
      return "self_attn.kv_a_proj_with_mqa.weight";
    case v1::TENSOR_ROLE_KV_A_NORM:
      return "self_attn.kv_a_layernorm.weight";
    case v1::TENSOR_ROLE_KV_B_K:
    case v1::TENSOR_ROLE_KV_B_KT:
    case v1::TENSOR_ROLE_KV_B_V:
      return "self_attn.kv_b_proj.weight";
    case v1::TENSOR_ROLE_O:
      return "self_attn.o_proj.weight";
    case v1::TENSOR_ROLE_GATE:
      return "mlp.gate_proj.weight";
    case v1::TENSOR_ROLE_UP:
      return "mlp.up_proj.weight";
    case v1::TENSOR_ROLE_DOWN:
      return "mlp.down_proj.weight";
    case v1::TENSOR_ROLE_ROUTER:
      return "mlp.gate.weight";
    case v1::TENSOR_ROLE_ROUTER_BIAS:
      return "mlp.gate.e_score_correction_bias";
    case v1::TENSOR_ROLE_EXPERT_GATE:
      return "gate_proj.weight";
    case v1::TENSOR_ROLE_EXPERT_UP:
      return "up_proj.weight";
    case v1::TENSOR_ROLE_EXPERT_DOWN:
      return "down_proj.weight";
    case v1::TENSOR_ROLE_SHARED_GATE:
      return "mlp.shared_experts.gate_proj.weight";
    case v1::TENSOR_ROLE_SHARED_UP:
      return "mlp.shared_experts.up_proj.weight";
    case v1::TENSOR_ROLE_SHARED_DOWN:
      return "mlp.shared_experts.down_proj.weight";
    default:
      return "";
  }
}

}  // namespace

TensorInfo InfoOf(const v1::ModelSpec& model, v1::TensorRole role) {
  TensorInfo info = ShapeOf(model, role);
  info.expert = info.split == Split::kExpertRows;
  info.layered = role != v1::TENSOR_ROLE_EMBED && role != v1::TENSOR_ROLE_FINAL_NORM &&
                 role != v1::TENSOR_ROLE_LM_HEAD;
  return info;
}

bool HasRole(const v1::ModelSpec& model, v1::TensorRole role, int64_t layer) {
  switch (role) {
    case v1::TENSOR_ROLE_EMBED:
    case v1::TENSOR_ROLE_FINAL_NORM:
    case v1::TENSOR_ROLE_LM_HEAD:
      return layer == 0;
    case v1::TENSOR_ROLE_Q:
      return model.q_lora_rank() == 0;
    case v1::TENSOR_ROLE_Q_A:
    case v1::TENSOR_ROLE_Q_A_NORM:
    case v1::TENSOR_ROLE_Q_B:
      return model.q_lora_rank() > 0;
    case v1::TENSOR_ROLE_GATE:
    case v1::TENSOR_ROLE_UP:
    case v1::TENSOR_ROLE_DOWN:
      return !HasExperts(model, layer);
    case v1::TENSOR_ROLE_ROUTER:
    case v1::TENSOR_ROLE_ROUTER_BIAS:
    case v1::TENSOR_ROLE_EXPERT_GATE:
    case v1::TENSOR_ROLE_EXPERT_UP:
    case v1::TENSOR_ROLE_EXPERT_DOWN:
      return HasExperts(model, layer);
    case v1::TENSOR_ROLE_SHARED_GATE:
    case v1::TENSOR_ROLE_SHARED_UP:
    case v1::TENSOR_ROLE_SHARED_DOWN:
      return HasExperts(model, layer) && model.n_shared_experts() > 0;
    default:
      return true;
  }
}

std::string TensorName(const v1::ModelSpec& model, v1::TensorRole role, int64_t layer,
                       int64_t expert, bool is_scale) {
  const char* tail = is_scale ? "_scale_inv" : "";
  if (role == v1::TENSOR_ROLE_FINAL_NORM) return absl::StrCat("model.norm.weight", tail);
  if (role == v1::TENSOR_ROLE_LM_HEAD && !model.tie_word_embeddings()) {
    return absl::StrCat("lm_head.weight", tail);
  }
  if (role == v1::TENSOR_ROLE_EMBED || role == v1::TENSOR_ROLE_LM_HEAD) {
    return absl::StrCat("model.embed_tokens.weight", tail);
  }
  if (role == v1::TENSOR_ROLE_EXPERT_GATE || role == v1::TENSOR_ROLE_EXPERT_UP ||
      role == v1::TENSOR_ROLE_EXPERT_DOWN) {
    return absl::StrCat("model.layers.", layer, ".mlp.experts.", expert, ".", LayerSuffix(role),
                        tail);
  }
  return absl::StrCat("model.layers.", layer, ".", LayerSuffix(role), tail);
}

}  // namespace whalepod
