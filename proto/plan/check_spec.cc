// Checks of what a plan is made from: model, layout, runtime.
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "proto/plan/memory.h"
#include "proto/plan/slices.h"

namespace whalepod {
namespace {

struct Limit {
  const char* field;
  int64_t value, low, high;
};

absl::Status CheckLimits(const char* what, const std::vector<Limit>& limits) {
  for (const Limit& limit : limits) {
    if (limit.value < limit.low || limit.value > limit.high) {
      return absl::InvalidArgumentError(absl::StrCat(what, ".", limit.field, " is ", limit.value,
                                                     ", allowed are ", limit.low, " to ",
                                                     limit.high));
    }
  }
  return absl::OkStatus();
}

// A dimension that a degree must divide.
struct Divisible {
  std::string what;  // "num_attention_heads = 8"
  int64_t size;
};

std::vector<Divisible> TpDimensions(const v1::ModelSpec& m) {
  const auto segments = [](const std::string& matrix, int64_t k, int64_t count) {
    return Divisible{absl::StrCat(matrix, " (K = ", k, ", cut in ", count,
                                  count == 1 ? " segment)" : " segments)"),
                     count};
  };
  std::vector<Divisible> dims;
  dims.push_back(
      {absl::StrCat("num_attention_heads = ", m.num_attention_heads()), m.num_attention_heads()});
  dims.push_back(segments("o_proj", m.num_attention_heads() * m.v_head_dim(), OProjSegments(m)));
  if (DenseLayers(m) > 0) {
    dims.push_back(segments("mlp.down_proj", m.intermediate_size(), DenseDownSegments(m)));
  }
  if (MoeLayers(m) > 0 && m.n_shared_experts() > 0) {
    dims.push_back(segments("shared_experts.down_proj",
                            m.n_shared_experts() * m.moe_intermediate_size(),
                            SharedDownSegments(m)));
  }
  dims.push_back(
      {absl::StrCat("the vocabulary's ", kVocabularySegments, " segments"), kVocabularySegments});
  return dims;
}

std::vector<Divisible> MoeTpDimensions(const v1::ModelSpec& m) {
  if (MoeLayers(m) == 0) return {};
  return {{absl::StrCat("moe_intermediate_size = ", m.moe_intermediate_size()),
           m.moe_intermediate_size()},
          {absl::StrCat("hidden_size = ", m.hidden_size()), m.hidden_size()}};
}

absl::Status CheckDegree(const char* degree_name, int degree, const std::vector<Divisible>& dims) {
  for (const Divisible& dim : dims) {
    if (dim.size % degree == 0) continue;
    std::vector<int> works;
    for (int d = 1; d <= 1024; ++d) {
      bool all = true;
      for (const Divisible& other : dims) all = all && other.size % d == 0;
      if (all) works.push_back(d);
    }
    return absl::InvalidArgumentError(
        absl::StrCat(degree_name, " = ", degree, " cannot split ", dim.what,
                     "; degrees that work: ", absl::StrJoin(works, ", ")));
  }
  return absl::OkStatus();
}

absl::Status CheckExpertTable(const v1::ModelSpec& model, const v1::Layout& layout) {
  const int64_t experts = MoeLayers(model) > 0 ? model.n_routed_experts() : 0;
  if (layout.expert_to_ep_size() != experts) {
    return absl::InvalidArgumentError(absl::StrCat("layout.expert_to_ep has ",
                                                   layout.expert_to_ep_size(), " entries for ",
                                                   experts, " experts"));
  }
  if (experts == 0) return absl::OkStatus();
  if (layout.ep() > experts) {
    return absl::InvalidArgumentError(absl::StrCat("ep = ", layout.ep(), " cannot split ", experts,
                                                   " experts: at most ", experts));
  }
  std::vector<int64_t> count(layout.ep(), 0);
  for (int64_t e = 0; e < experts; ++e) {
    const int ep = layout.expert_to_ep(static_cast<int>(e));
    if (ep < 0 || ep >= layout.ep()) {
      return absl::InvalidArgumentError(
          absl::StrCat("layout.expert_to_ep[", e, "] is ", ep, " with ep = ", layout.ep()));
    }
    ++count[ep];
  }
  for (int ep = 0; ep < layout.ep(); ++ep) {
    if (count[ep] == 0) {
      return absl::InvalidArgumentError(absl::StrCat("EP group ", ep, " has no expert"));
    }
  }
  return absl::OkStatus();
}

// What the forward pass could only find out in the middle of a step. Counts of groups may be unset.
absl::Status CheckArithmetic(const v1::ModelSpec& m) {
  if (m.qk_rope_head_dim() % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.qk_rope_head_dim is ", m.qk_rope_head_dim(), ", expected pairs"));
  }
  const double reals[] = {m.rms_norm_eps(), m.rope_theta(), m.routed_scaling_factor()};
  for (const double real : reals) {
    if (!std::isfinite(real) || real < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.rms_norm_eps, rope_theta and routed_scaling_factor are ", reals[0],
                       ", ", reals[1], " and ", reals[2], ", expected finite numbers from 0"));
    }
  }
  if (m.has_yarn() && m.rope_theta() <= 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.rope_theta is ", m.rope_theta(), ", with YaRN expected above 1"));
  }
  if (m.n_routed_experts() == 0) return absl::OkStatus();
  const int64_t groups = std::max<int64_t>(1, m.n_group());
  const int64_t open = std::max<int64_t>(1, m.topk_group());
  if (m.n_routed_experts() % groups != 0 || open > groups ||
      m.num_experts_per_tok() > m.n_routed_experts() / groups * open) {
    return absl::InvalidArgumentError(
        absl::StrCat("model: ", m.num_experts_per_tok(), " experts a token cannot be chosen from ",
                     open, " of ", groups, " groups of ", m.n_routed_experts(), " experts"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckModel(const v1::ModelSpec& m) {
  constexpr int64_t kWide = 1 << 20;
  const bool moe = m.n_routed_experts() > 0;
  RETURN_IF_ERROR(CheckLimits(
      "model", {{"num_hidden_layers", m.num_hidden_layers(), 1, 1024},
                {"hidden_size", m.hidden_size(), 1, kWide},
                {"first_k_dense_replace", m.first_k_dense_replace(), 0, 1 << 20},
                {"moe_layer_freq", m.moe_layer_freq(), 0, 1024},
                {"num_attention_heads", m.num_attention_heads(), 1, 4096},
                {"q_lora_rank", m.q_lora_rank(), 0, kWide},
                {"kv_lora_rank", m.kv_lora_rank(), 1, kWide},
                {"qk_nope_head_dim", m.qk_nope_head_dim(), 1, 4096},
                {"qk_rope_head_dim", m.qk_rope_head_dim(), 2, 4096},
                {"v_head_dim", m.v_head_dim(), 1, 4096},
                {"n_routed_experts", m.n_routed_experts(), 0, 4096},
                {"n_shared_experts", m.n_shared_experts(), 0, 64},
                {"moe_intermediate_size", m.moe_intermediate_size(), moe ? 1 : 0, kWide},
                {"num_experts_per_tok", m.num_experts_per_tok(), moe ? 1 : 0,
                 moe ? std::min<int64_t>(256, m.n_routed_experts()) : 256},
                {"vocab_size", m.vocab_size(), 1, 1 << 24},
                {"max_position_embeddings", m.max_position_embeddings(), 1, 1 << 26},
                {"fp8_block_rows", m.fp8_block_rows(), 0, 1 << 16},
                {"fp8_block_cols", m.fp8_block_cols(), 0, 1 << 16}}));
  const int64_t low = DenseLayers(m) > 0 ? 1 : 0;
  RETURN_IF_ERROR(CheckLimits("model", {{"intermediate_size", m.intermediate_size(), low, kWide}}));
  if ((m.fp8_block_rows() == 0) != (m.fp8_block_cols() == 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model has FP8 blocks of ", m.fp8_block_rows(), " x ", m.fp8_block_cols()));
  }
  return CheckArithmetic(m);
}

absl::Status CheckLayout(const v1::ModelSpec& model, const v1::Layout& layout) {
  RETURN_IF_ERROR(CheckLimits("layout", {{"replicas", layout.replicas(), 1, kMaxRanks},
                                         {"pp", layout.pp(), 1, kMaxRanks},
                                         {"dp", layout.dp(), 1, kMaxRanks},
                                         {"tp", layout.tp(), 1, kMaxRanks},
                                         {"ep", layout.ep(), 1, kMaxRanks},
                                         {"moe_tp", layout.moe_tp(), 1, kMaxRanks}}));
  if (layout.pp() > 1) {
    return absl::UnimplementedError(
        absl::StrCat("pp = ", layout.pp(), ": pipeline parallelism cannot be run yet, use pp = 1"));
  }
  if (layout.replicas() > 1) {
    return absl::UnimplementedError(absl::StrCat("replicas = ", layout.replicas(),
                                                 ": more than one replica cannot be run yet"));
  }
  const int64_t attention = int64_t{layout.dp()} * layout.tp();
  const int64_t experts = int64_t{layout.ep()} * layout.moe_tp();
  if (attention != experts) {
    return absl::InvalidArgumentError(absl::StrCat(
        "dp * tp = ", layout.dp(), " * ", layout.tp(), " = ", attention,
        " ranks, but ep * moe_tp = ", layout.ep(), " * ", layout.moe_tp(), " = ", experts));
  }
  if (attention > kMaxRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("dp * tp = ", attention, " ranks; at most ", kMaxRanks));
  }
  RETURN_IF_ERROR(CheckDegree("tp", layout.tp(), TpDimensions(model)));
  RETURN_IF_ERROR(CheckDegree("moe_tp", layout.moe_tp(), MoeTpDimensions(model)));
  return CheckExpertTable(model, layout);
}

absl::Status CheckRuntime(const v1::ModelSpec& model, const v1::RuntimeSpec& runtime) {
  if (runtime.compute_dtype() != v1::DTYPE_BF16 && runtime.compute_dtype() != v1::DTYPE_F32) {
    return absl::InvalidArgumentError(absl::StrCat("runtime.compute_dtype is ",
                                                   v1::DType_Name(runtime.compute_dtype()),
                                                   ", allowed are DTYPE_BF16 and DTYPE_F32"));
  }
  if (runtime.activation_quant() != v1::ACTIVATION_QUANT_NONE &&
      runtime.activation_quant() != v1::ACTIVATION_QUANT_FP8) {
    return absl::InvalidArgumentError("runtime.activation_quant is not set");
  }
  return CheckLimits(
      "runtime", {{"max_model_len", runtime.max_model_len(), 1, model.max_position_embeddings()},
                  {"max_num_seqs", runtime.max_num_seqs(), 1, 1 << 16},
                  {"max_num_batched_tokens", runtime.max_num_batched_tokens(), 1, 1 << 16},
                  {"kv_block_tokens", runtime.kv_block_tokens(), 1, 4096},
                  {"kv_bytes_per_rank", runtime.kv_bytes_per_rank(), 1, int64_t{1} << 50},
                  {"threads_per_rank", runtime.threads_per_rank(), 1, 4096}});
}

}  // namespace whalepod
