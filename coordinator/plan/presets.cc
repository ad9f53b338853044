#include "coordinator/plan/presets.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace whalepod {
namespace {

// The published config.json of DeepSeek-R1 (and V3), generation ids included.
v1::ModelSpec DeepSeekR1() {
  v1::ModelSpec m;
  m.set_name("deepseek-r1");
  m.set_model_type("deepseek_v3");
  m.set_num_hidden_layers(61);
  m.set_hidden_size(7168);
  m.set_first_k_dense_replace(3);
  m.set_moe_layer_freq(1);
  m.set_intermediate_size(18432);
  m.set_moe_intermediate_size(2048);
  m.set_num_attention_heads(128);
  m.set_q_lora_rank(1536);
  m.set_kv_lora_rank(512);
  m.set_qk_nope_head_dim(128);
  m.set_qk_rope_head_dim(64);
  m.set_v_head_dim(128);
  m.set_n_routed_experts(256);
  m.set_n_shared_experts(1);
  m.set_num_experts_per_tok(8);
  m.set_n_group(8);
  m.set_topk_group(4);
  m.set_norm_topk_prob(true);
  m.set_routed_scaling_factor(2.5);
  m.set_num_nextn_predict_layers(1);
  m.set_vocab_size(129280);
  m.set_tie_word_embeddings(false);
  m.set_rms_norm_eps(1e-6);
  m.set_rope_theta(10000);
  v1::YarnScaling* yarn = m.mutable_yarn();
  yarn->set_factor(40);
  yarn->set_original_max_position_embeddings(4096);
  yarn->set_beta_fast(32);
  yarn->set_beta_slow(1);
  yarn->set_mscale(1);
  yarn->set_mscale_all_dim(1);
  yarn->set_truncate(true);
  m.set_max_position_embeddings(163840);
  m.add_eos_token_ids(1);
  m.set_bos_token_id(0);
  m.set_fp8_block_rows(128);
  m.set_fp8_block_cols(128);
  return m;
}

}  // namespace

std::vector<std::string> PresetNames() { return {"deepseek-r1", "deepseek-v3"}; }

absl::StatusOr<v1::ModelSpec> Preset(const std::string& name) {
  for (const std::string& known : PresetNames()) {
    if (name != known) continue;
    v1::ModelSpec model = DeepSeekR1();
    model.set_name(name);
    return model;
  }
  return absl::NotFoundError(
      absl::StrCat("no preset \"", name, "\"; there are ", absl::StrJoin(PresetNames(), ", ")));
}

}  // namespace whalepod
