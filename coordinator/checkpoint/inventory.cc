#include "coordinator/checkpoint/inventory.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/units.h"

namespace whalepod {
namespace {

class Builder {
 public:
  explicit Builder(const v1::ModelSpec& model) : model_(model) {}

  std::vector<InventoryTensor> Build() {
    Matrix("model.embed_tokens.weight", v1::TENSOR_ROLE_EMBED, model_.vocab_size(),
           model_.hidden_size());
    for (int64_t layer = 0; layer < model_.num_hidden_layers(); ++layer) AddLayer(layer);
    layer_ = 0;
    Vector("model.norm.weight", v1::TENSOR_ROLE_FINAL_NORM, model_.hidden_size());
    if (!model_.tie_word_embeddings()) {
      Matrix("lm_head.weight", v1::TENSOR_ROLE_LM_HEAD, model_.vocab_size(), model_.hidden_size());
    }
    return std::move(tensors_);
  }

 private:
  void Add(std::string name, v1::TensorRole role, int64_t rows, int64_t cols) {
    InventoryTensor& t = tensors_.emplace_back();
    t.name = std::move(name);
    t.role = role;
    t.layer = layer_;
    t.expert = expert_;
    t.rows = rows;
    t.cols = cols;
  }

  void Matrix(std::string name, v1::TensorRole role, int64_t rows, int64_t cols) {
    Add(std::move(name), role, rows, cols);
  }

  void Vector(std::string name, v1::TensorRole role, int64_t size) {
    Add(std::move(name), role, 1, size);
    tensors_.back().vector = true;
  }

  // A matrix that is FP8 with a scale grid in FP8 checkpoints.
  void Quantisable(std::string name, v1::TensorRole role, int64_t rows, int64_t cols) {
    Add(name, role, rows, cols);
    tensors_.back().quantisable = true;
    if (model_.fp8_block_rows() <= 0) return;
    Add(absl::StrCat(name, "_scale_inv"), role, CeilDiv(rows, model_.fp8_block_rows()),
        CeilDiv(cols, model_.fp8_block_cols()));
    tensors_.back().is_scale = true;
  }

  void AddLayer(int64_t layer) {
    layer_ = layer;
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    Vector(prefix + "input_layernorm.weight", v1::TENSOR_ROLE_INPUT_NORM, model_.hidden_size());
    AddAttention(prefix + "self_attn.");
    Vector(prefix + "post_attention_layernorm.weight", v1::TENSOR_ROLE_POST_NORM,
           model_.hidden_size());
    if (IsMoeLayer(model_, layer)) {
      AddMoe(prefix + "mlp.");
    } else {
      AddFfn(prefix + "mlp.", v1::TENSOR_ROLE_GATE, v1::TENSOR_ROLE_UP, v1::TENSOR_ROLE_DOWN,
             model_.intermediate_size());
    }
  }

  void AddAttention(const std::string& prefix) {
    const int64_t hidden = model_.hidden_size();
    const int64_t heads = model_.num_attention_heads();
    const int64_t q_rows = heads * (model_.qk_nope_head_dim() + model_.qk_rope_head_dim());
    if (model_.q_lora_rank() == 0) {
      Quantisable(prefix + "q_proj.weight", v1::TENSOR_ROLE_Q, q_rows, hidden);
    } else {
      Quantisable(prefix + "q_a_proj.weight", v1::TENSOR_ROLE_Q_A, model_.q_lora_rank(), hidden);
      Vector(prefix + "q_a_layernorm.weight", v1::TENSOR_ROLE_Q_A_NORM, model_.q_lora_rank());
      Quantisable(prefix + "q_b_proj.weight", v1::TENSOR_ROLE_Q_B, q_rows, model_.q_lora_rank());
    }
    const int64_t latent = model_.kv_lora_rank();
    Quantisable(prefix + "kv_a_proj_with_mqa.weight", v1::TENSOR_ROLE_KV_A,
                latent + model_.qk_rope_head_dim(), hidden);
    Vector(prefix + "kv_a_layernorm.weight", v1::TENSOR_ROLE_KV_A_NORM, latent);
    Quantisable(prefix + "kv_b_proj.weight", v1::TENSOR_ROLE_KV_B_K,
                heads * (model_.qk_nope_head_dim() + model_.v_head_dim()), latent);
    Quantisable(prefix + "o_proj.weight", v1::TENSOR_ROLE_O, hidden, heads * model_.v_head_dim());
  }

  void AddFfn(const std::string& prefix, v1::TensorRole gate, v1::TensorRole up,
              v1::TensorRole down, int64_t width) {
    const int64_t hidden = model_.hidden_size();
    Quantisable(prefix + "gate_proj.weight", gate, width, hidden);
    Quantisable(prefix + "up_proj.weight", up, width, hidden);
    Quantisable(prefix + "down_proj.weight", down, hidden, width);
  }

  void AddMoe(const std::string& prefix) {
    Matrix(prefix + "gate.weight", v1::TENSOR_ROLE_ROUTER, model_.n_routed_experts(),
           model_.hidden_size());
    Vector(prefix + "gate.e_score_correction_bias", v1::TENSOR_ROLE_ROUTER_BIAS,
           model_.n_routed_experts());
    for (int64_t expert = 0; expert < model_.n_routed_experts(); ++expert) {
      expert_ = expert;
      AddFfn(absl::StrCat(prefix, "experts.", expert, "."), v1::TENSOR_ROLE_EXPERT_GATE,
             v1::TENSOR_ROLE_EXPERT_UP, v1::TENSOR_ROLE_EXPERT_DOWN,
             model_.moe_intermediate_size());
    }
    expert_ = 0;
    if (model_.n_shared_experts() > 0) {
      AddFfn(prefix + "shared_experts.", v1::TENSOR_ROLE_SHARED_GATE, v1::TENSOR_ROLE_SHARED_UP,
             v1::TENSOR_ROLE_SHARED_DOWN,
             model_.n_shared_experts() * model_.moe_intermediate_size());
    }
  }

  const v1::ModelSpec& model_;
  int64_t layer_ = 0;
  int64_t expert_ = 0;
  std::vector<InventoryTensor> tensors_;
};

}  // namespace

bool IsMoeLayer(const v1::ModelSpec& model, int64_t layer) {
  return model.n_routed_experts() > 0 && layer >= model.first_k_dense_replace() &&
         layer % model.moe_layer_freq() == 0;
}

std::vector<InventoryTensor> Inventory(const v1::ModelSpec& model) {
  return Builder(model).Build();
}

int64_t LayerOfTensor(absl::string_view name) {
  constexpr absl::string_view kPrefix = "model.layers.";
  if (!absl::StartsWith(name, kPrefix)) return -1;
  name.remove_prefix(kPrefix.size());
  const size_t digits = name.find('.');
  if (digits == 0 || digits == absl::string_view::npos) return -1;
  for (const char c : name.substr(0, digits)) {
    if (c < '0' || c > '9') return -1;
  }
  int64_t layer = -1;
  if (!absl::SimpleAtoi(name.substr(0, digits), &layer)) return -1;
  return layer;
}

bool IsNextnTensor(const v1::ModelSpec& model, const std::string& name) {
  const int64_t layer = LayerOfTensor(name);
  return layer >= 0 && layer >= model.num_hidden_layers();
}

}  // namespace whalepod
