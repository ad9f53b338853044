#include "coordinator/checkpoint/config.h"

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "coordinator/checkpoint/inventory.h"
#include "coordinator/checkpoint/json_object.h"

namespace whalepod {
namespace {

// Far above any published model; they keep every product of two shapes inside 64 bits.
constexpr IntBounds kWidth{1, int64_t{1} << 24};
constexpr IntBounds kHeadWidth{1, int64_t{1} << 16};
constexpr IntBounds kLayers{1, 1024};
constexpr IntBounds kExperts{0, int64_t{1} << 14};
constexpr IntBounds kPositions{1, (int64_t{1} << 31) - 1};
constexpr double kMaxElements = 1e15;
constexpr int64_t kMaxExpertsOfAllLayers = int64_t{1} << 18;

// rope_theta and scaling as one of rope_scaling or rope_parameters states them.
struct Rope {
  std::optional<double> theta;
  std::optional<v1::YarnScaling> yarn;
};

void ReadYarn(JsonObject& rope, int64_t max_positions, v1::YarnScaling& yarn) {
  yarn.set_factor(rope.Real("factor", {1, 1e6}));
  yarn.set_original_max_position_embeddings(
      rope.Int("original_max_position_embeddings", kPositions, max_positions));
  yarn.set_beta_fast(rope.Real("beta_fast", {0, 1e6, true}, 32.0));
  yarn.set_beta_slow(rope.Real("beta_slow", {0, 1e6, true}, 1.0));
  if (yarn.beta_fast() < yarn.beta_slow()) {
    rope.Fail("beta_fast", absl::StrCat("expected at least beta_slow (", yarn.beta_slow(),
                                        "), found ", yarn.beta_fast()));
  }
  // Zero is what transformers takes for "not stated" as well.
  yarn.set_mscale(rope.Real("mscale", {0, 1e3}, 0.0));
  yarn.set_mscale_all_dim(rope.Real("mscale_all_dim", {0, 1e3}, 0.0));
  yarn.set_attention_factor(rope.Real("attention_factor", {0, 1e3, true}, 0.0));
  yarn.set_truncate(rope.Bool("truncate", true));
}

// `type_required`: rope_scaling must say what it is; rope_parameters is "default" if it does not.
Rope ReadRope(JsonObject& parent, const std::string& where, const char* key, bool type_required,
              int64_t max_positions) {
  Rope result;
  JsonObject rope(parent.Get(key), where, absl::StrCat(key, "."));
  std::string type = type_required ? "" : "default";
  if (rope.Has("rope_type")) type = rope.String("rope_type");
  if (rope.Has("type")) {
    const std::string older = rope.String("type");
    if (rope.Has("rope_type") && older != type) {
      rope.Fail("type", absl::StrCat("is ", Quoted(older), " where rope_type is ", Quoted(type)));
    }
    type = older;
  }
  if (rope.Has("rope_theta")) result.theta = rope.Real("rope_theta", {0, 1e12, true});
  rope.Only("partial_rotary_factor", 1.0);
  if (type == "yarn") {
    ReadYarn(rope, max_positions, result.yarn.emplace());
  } else if (type.empty()) {
    rope.Fail("type", "missing");
  } else if (type != "default") {
    rope.Fail("type", absl::StrCat("expected \"yarn\" or \"default\", found ", Quoted(type)));
  }
  parent.Merge(rope.status());
  return result;
}

void ReadRopes(JsonObject& config, const std::string& where, v1::ModelSpec& model) {
  std::optional<Rope> rope;
  if (config.Has("rope_scaling")) {
    rope = ReadRope(config, where, "rope_scaling", true, model.max_position_embeddings());
  }
  if (config.Has("rope_parameters")) {
    Rope newer = ReadRope(config, where, "rope_parameters", false, model.max_position_embeddings());
    if (rope.has_value() && (rope->yarn.has_value() != newer.yarn.has_value() ||
                             (newer.yarn.has_value() && rope->yarn->SerializeAsString() !=
                                                            newer.yarn->SerializeAsString()))) {
      config.Fail("rope_parameters",
                  absl::StrCat(Shown(config.Get("rope_parameters")), " contradicts rope_scaling ",
                               Shown(config.Get("rope_scaling"))));
    }
    if (rope.has_value() && !newer.theta.has_value()) newer.theta = rope->theta;
    rope = newer;
  }
  std::optional<double> theta;
  if (config.Has("rope_theta")) theta = config.Real("rope_theta", {0, 1e12, true});
  if (rope.has_value() && rope->theta.has_value()) {
    if (theta.has_value() && *theta != *rope->theta) {
      config.Fail("rope_theta", absl::StrCat(*theta, " contradicts the ", *rope->theta,
                                             " of rope_parameters or rope_scaling"));
    }
    theta = rope->theta;
  }
  model.set_rope_theta(theta.value_or(10000.0));
  if (rope.has_value() && rope->yarn.has_value()) *model.mutable_yarn() = *rope->yarn;
}

void ReadQuantization(JsonObject& config, const std::string& where, v1::ModelSpec& model) {
  if (!config.Has("quantization_config")) return;
  JsonObject quant(config.Get("quantization_config"), where, "quantization_config.");
  const std::string method = quant.String("quant_method");
  if (method != "fp8") {
    quant.Fail("quant_method", absl::StrCat("expected \"fp8\", found ", Quoted(method)));
  }
  quant.Only("fmt", "e4m3");
  quant.Only("activation_scheme", "dynamic");
  constexpr IntBounds kBlock{1, int64_t{1} << 16};
  const std::vector<int64_t> block = quant.Ints("weight_block_size", kBlock);
  if (quant.ok() && block.size() != 2) {
    quant.Fail("weight_block_size", absl::StrCat("expected 2 integers, found ", block.size()));
  }
  // Products take elements in pairs and segments of 32 columns; a block may not cut one.
  for (const int64_t size : block) {
    if (size % 32 != 0) {
      quant.Fail("weight_block_size", absl::StrCat("expected multiples of 32, found ", size));
    }
  }
  if (quant.ok()) {
    model.set_fp8_block_rows(block[0]);
    model.set_fp8_block_cols(block[1]);
  }
  config.Merge(quant.status());
}

void ReadAttention(JsonObject& config, v1::ModelSpec& model) {
  model.set_num_attention_heads(config.Int("num_attention_heads", kHeadWidth));
  if (!config.Present("q_lora_rank")) config.Fail("q_lora_rank", "missing (null for none)");
  model.set_q_lora_rank(config.Int("q_lora_rank", kWidth, 0));
  model.set_kv_lora_rank(config.Int("kv_lora_rank", kWidth));
  model.set_qk_nope_head_dim(config.Int("qk_nope_head_dim", kHeadWidth));
  model.set_qk_rope_head_dim(config.Int("qk_rope_head_dim", kHeadWidth));
  if (model.qk_rope_head_dim() % 2 != 0 && config.ok()) {
    config.Fail("qk_rope_head_dim",
                absl::StrCat("expected an even number, found ", model.qk_rope_head_dim()));
  }
  model.set_v_head_dim(config.Int("v_head_dim", kHeadWidth));
  // What follows from the above, where it is stated.
  config.Only("num_key_value_heads", model.num_attention_heads());
  config.Only("qk_head_dim", model.qk_nope_head_dim() + model.qk_rope_head_dim());
  config.Only("head_dim", model.qk_rope_head_dim());
  config.Only("attention_bias", false);
  config.Only("rope_interleave", true);
}

// The four numbers that say how experts are chosen fit together.
void CheckRouting(JsonObject& config, const v1::ModelSpec& model) {
  if (!config.ok()) return;
  const int64_t experts = model.n_routed_experts();
  const int64_t groups = model.n_group();
  if (experts % groups != 0) {
    config.Fail("n_routed_experts",
                absl::StrCat("expected a multiple of n_group (", groups, "), found ", experts));
    return;
  }
  const int64_t group_size = experts / groups;
  if (groups > 1 && group_size < 2) {
    config.Fail("n_group", absl::StrCat("expected groups of at least 2 experts, found ", groups,
                                        " groups of ", experts, " experts"));
  }
  if (model.topk_group() > groups) {
    config.Fail("topk_group", absl::StrCat("expected at most n_group (", groups, "), found ",
                                           model.topk_group()));
  }
  if (model.num_experts_per_tok() > model.topk_group() * group_size) {
    config.Fail("num_experts_per_tok",
                absl::StrCat("expected at most the ", model.topk_group() * group_size,
                             " experts of topk_group (", model.topk_group(), ") groups, found ",
                             model.num_experts_per_tok()));
  }
}

void ReadExperts(JsonObject& config, v1::ModelSpec& model) {
  if (!config.Present("n_routed_experts")) config.Fail("n_routed_experts", "missing (0 for none)");
  model.set_n_routed_experts(config.Int("n_routed_experts", kExperts, 0));
  const bool none = model.n_routed_experts() == 0;
  const auto missing = [none](int64_t value) {
    return none ? std::optional<int64_t>(value) : std::nullopt;
  };
  if (!none && !config.Present("n_shared_experts")) {
    config.Fail("n_shared_experts", "missing (0 for none)");
  }
  model.set_first_k_dense_replace(
      config.Int("first_k_dense_replace", {0, model.num_hidden_layers()}, missing(0)));
  model.set_moe_layer_freq(config.Int("moe_layer_freq", kLayers, 1));
  model.set_moe_intermediate_size(config.Int("moe_intermediate_size", kWidth, missing(0)));
  model.set_n_shared_experts(config.Int("n_shared_experts", {0, 64}, 0));
  constexpr IntBounds kSome{1, int64_t{1} << 14};
  model.set_num_experts_per_tok(config.Int("num_experts_per_tok", kSome, missing(1)));
  model.set_n_group(config.Int("n_group", kSome, missing(1)));
  model.set_topk_group(config.Int("topk_group", kSome, missing(1)));
  model.set_norm_topk_prob(
      config.Bool("norm_topk_prob", none ? std::optional(true) : std::nullopt));
  model.set_routed_scaling_factor(config.Real("routed_scaling_factor", {0, 1e6, true},
                                              none ? std::optional(1.0) : std::nullopt));
  config.Only("scoring_func", "sigmoid");
  config.Only("topk_method", "noaux_tc");
  if (!none) CheckRouting(config, model);
}

void ReadTokens(JsonObject& config, v1::ModelSpec& model) {
  const IntBounds ids{0, model.vocab_size() - 1};
  if (config.Has("eos_token_id")) {
    const std::vector<int64_t> eos = config.Ints("eos_token_id", ids);
    model.mutable_eos_token_ids()->Assign(eos.begin(), eos.end());
  }
  if (config.Has("bos_token_id")) model.set_bos_token_id(config.Int("bos_token_id", ids));
}

// Bounds on sums of shapes, so that nobody downstream has to think of overflow.
void CheckTotal(JsonObject& config, const v1::ModelSpec& m) {
  if (!config.ok()) return;
  const double hidden = static_cast<double>(m.hidden_size());
  const double heads = static_cast<double>(m.num_attention_heads());
  const double q = heads * static_cast<double>(m.qk_nope_head_dim() + m.qk_rope_head_dim());
  const double q_rank = static_cast<double>(m.q_lora_rank());
  const double attention = (q_rank > 0 ? q_rank * (hidden + q) : q * hidden) +
                           static_cast<double>(m.kv_lora_rank() + m.qk_rope_head_dim()) * hidden +
                           heads * static_cast<double>(m.qk_nope_head_dim() + m.v_head_dim()) *
                               static_cast<double>(m.kv_lora_rank()) +
                           heads * static_cast<double>(m.v_head_dim()) * hidden;
  const double experts = static_cast<double>(m.n_routed_experts() + m.n_shared_experts());
  const double ffn = 3 * hidden * static_cast<double>(m.intermediate_size()) +
                     3 * hidden * experts * static_cast<double>(m.moe_intermediate_size()) +
                     hidden * static_cast<double>(m.n_routed_experts());
  const double total = static_cast<double>(m.num_hidden_layers()) * (attention + ffn) +
                       2 * hidden * static_cast<double>(m.vocab_size());
  if (m.num_hidden_layers() * m.n_routed_experts() > kMaxExpertsOfAllLayers) {
    config.Fail("n_routed_experts",
                absl::StrCat(m.n_routed_experts(), " in each of ", m.num_hidden_layers(),
                             " layers, expected at most ", kMaxExpertsOfAllLayers, " together"));
  }
  if (total > kMaxElements) {
    config.Fail("hidden_size", absl::StrCat("the shapes make about ", total,
                                            " parameters, expected at most ", kMaxElements));
  }
}

}  // namespace

absl::StatusOr<v1::ModelSpec> ParseModelConfig(const std::string& json, const std::string& where) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(json, where));
  JsonObject config(document, where);
  v1::ModelSpec model;
  model.set_model_type(config.String("model_type"));
  if (model.model_type() != "deepseek_v3") {
    config.Fail("model_type",
                absl::StrCat("expected \"deepseek_v3\", found ", Quoted(model.model_type())));
  }
  model.set_num_hidden_layers(config.Int("num_hidden_layers", kLayers));
  model.set_hidden_size(config.Int("hidden_size", kWidth));
  model.set_intermediate_size(config.Int("intermediate_size", kWidth));
  model.set_vocab_size(config.Int("vocab_size", kWidth));
  model.set_max_position_embeddings(config.Int("max_position_embeddings", kPositions));
  model.set_num_nextn_predict_layers(config.Int("num_nextn_predict_layers", {0, 64}, 0));
  model.set_tie_word_embeddings(config.Bool("tie_word_embeddings", false));
  model.set_rms_norm_eps(config.Real("rms_norm_eps", {0, 1, true}, 1e-6));
  config.Only("hidden_act", "silu");
  ReadAttention(config, model);
  ReadExperts(config, model);
  if (config.ok()) ReadRopes(config, where, model);
  if (config.ok()) ReadQuantization(config, where, model);
  // transformers' defaults; null means none.
  if (!config.Present("eos_token_id")) model.add_eos_token_ids(1);
  model.set_bos_token_id(config.Present("bos_token_id") ? -1 : 0);
  ReadTokens(config, model);
  CheckTotal(config, model);
  RETURN_IF_ERROR(config.status());
  return model;
}

absl::Status ApplyGenerationConfig(absl::string_view json, const std::string& where,
                                   v1::ModelSpec& model, GenerationDefaults& defaults) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(json, where));
  JsonObject config(document, where);
  ReadTokens(config, model);
  const auto real = [&config](const char* key, RealBounds bounds, float missing) {
    return static_cast<float>(config.Real(key, bounds, missing));
  };
  defaults.temperature = real("temperature", {0, 2}, defaults.temperature);
  defaults.top_p = real("top_p", {0, 1, true}, defaults.top_p);
  defaults.min_p = real("min_p", {0, 1}, defaults.min_p);
  defaults.repetition_penalty =
      real("repetition_penalty", {0.01, 100}, defaults.repetition_penalty);
  defaults.top_k = config.Int("top_k", {0, INT32_MAX}, defaults.top_k);
  defaults.max_new_tokens = config.Int("max_new_tokens", {1, INT32_MAX}, defaults.max_new_tokens);
  return config.status();
}

}  // namespace whalepod
