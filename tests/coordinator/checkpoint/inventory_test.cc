#include "coordinator/checkpoint/inventory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace whalepod {
namespace {

v1::ModelSpec R1() {
  v1::ModelSpec m;
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
  m.set_num_nextn_predict_layers(1);
  m.set_vocab_size(129280);
  m.set_fp8_block_rows(128);
  m.set_fp8_block_cols(128);
  return m;
}

struct Totals {
  int64_t tensors = 0, parameters = 0, bytes = 0;
};

// As R1 stores them: FP8 with F32 scales, BF16, and F32 for the correction bias.
Totals Sum(const std::vector<InventoryTensor>& tensors) {
  Totals totals;
  for (const InventoryTensor& t : tensors) {
    ++totals.tensors;
    if (!t.is_scale) totals.parameters += t.rows * t.cols;
    const bool f32 = t.is_scale || t.role == v1::TENSOR_ROLE_ROUTER_BIAS;
    totals.bytes += t.rows * t.cols * (f32 ? 4 : t.quantisable ? 1 : 2);
  }
  return totals;
}

std::vector<std::string> NamesOfLayer(const v1::ModelSpec& model, int64_t layer) {
  std::vector<std::string> names;
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  for (const InventoryTensor& t : Inventory(model)) {
    if (t.name.starts_with(prefix)) names.push_back(t.name.substr(prefix.size()));
  }
  return names;
}

const InventoryTensor& Find(const std::vector<InventoryTensor>& all, const std::string& name) {
  const auto it =
      std::find_if(all.begin(), all.end(), [&](const auto& t) { return t.name == name; });
  EXPECT_NE(it, all.end()) << name;
  return *it;
}

TEST(InventoryTest, R1HasExactlyThePublishedTotals) {
  const Totals totals = Sum(Inventory(R1()));
  EXPECT_EQ(totals.tensors, 90'427);
  EXPECT_EQ(totals.parameters, 671'026'419'200);
  EXPECT_EQ(totals.bytes, 673'150'611'808);
}

TEST(InventoryTest, R1ShapesAndRaggedScales) {
  const auto all = Inventory(R1());
  const auto expect = [&](const std::string& name, v1::TensorRole role, int64_t rows,
                          int64_t cols) {
    const InventoryTensor& t = Find(all, name);
    EXPECT_EQ(t.role, role) << name;
    EXPECT_EQ(t.rows, rows) << name;
    EXPECT_EQ(t.cols, cols) << name;
  };
  expect("model.embed_tokens.weight", v1::TENSOR_ROLE_EMBED, 129280, 7168);
  expect("model.layers.7.self_attn.kv_a_proj_with_mqa.weight", v1::TENSOR_ROLE_KV_A, 576, 7168);
  expect("model.layers.7.self_attn.kv_a_proj_with_mqa.weight_scale_inv", v1::TENSOR_ROLE_KV_A, 5,
         56);
  expect("model.layers.7.self_attn.kv_b_proj.weight", v1::TENSOR_ROLE_KV_B_K, 32768, 512);
  expect("model.layers.60.mlp.experts.255.down_proj.weight", v1::TENSOR_ROLE_EXPERT_DOWN, 7168,
         2048);
  expect("model.layers.2.mlp.down_proj.weight_scale_inv", v1::TENSOR_ROLE_DOWN, 56, 144);
  const InventoryTensor& expert = Find(all, "model.layers.60.mlp.experts.255.down_proj.weight");
  EXPECT_EQ(expert.layer, 60);
  EXPECT_EQ(expert.expert, 255);
  EXPECT_TRUE(expert.quantisable);
  EXPECT_FALSE(Find(all, "model.layers.3.mlp.gate.weight").quantisable);
  EXPECT_TRUE(Find(all, "model.layers.3.mlp.gate.e_score_correction_bias").vector);
  EXPECT_EQ(all.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(all.back().name, "lm_head.weight");
}

TEST(InventoryTest, NamesAreDistinctAndScalesFollowTheirWeight) {
  const auto all = Inventory(R1());
  std::set<std::string> names;
  for (size_t i = 0; i < all.size(); ++i) {
    EXPECT_TRUE(names.insert(all[i].name).second) << all[i].name;
    if (all[i].is_scale) {
      EXPECT_EQ(all[i].name, all[i - 1].name + "_scale_inv");
    }
  }
}

TEST(InventoryTest, WithoutQuantisationThereAreNoScales) {
  v1::ModelSpec m = R1();
  m.set_fp8_block_rows(0);
  m.set_fp8_block_cols(0);
  const Totals totals = Sum(Inventory(m));
  EXPECT_EQ(totals.tensors, 45'395);
  EXPECT_EQ(totals.parameters, 671'026'419'200);
}

TEST(InventoryTest, LayersFollowTheConfig) {
  v1::ModelSpec m = R1();
  m.set_fp8_block_rows(0);
  m.set_fp8_block_cols(0);
  m.set_num_hidden_layers(6);
  m.set_first_k_dense_replace(1);
  m.set_moe_layer_freq(2);
  m.set_n_routed_experts(2);
  m.set_n_shared_experts(0);
  m.set_q_lora_rank(0);
  m.set_tie_word_embeddings(true);
  EXPECT_THAT(
      NamesOfLayer(m, 3),
      testing::ElementsAre("input_layernorm.weight", "self_attn.q_proj.weight",
                           "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight",
                           "self_attn.kv_b_proj.weight", "self_attn.o_proj.weight",
                           "post_attention_layernorm.weight", "mlp.gate_proj.weight",
                           "mlp.up_proj.weight", "mlp.down_proj.weight"));
  EXPECT_THAT(NamesOfLayer(m, 4), testing::Contains("mlp.experts.1.up_proj.weight"));
  EXPECT_THAT(NamesOfLayer(m, 4), testing::Not(testing::Contains("mlp.gate_proj.weight")));
  EXPECT_THAT(NamesOfLayer(m, 0), testing::Contains("mlp.gate_proj.weight"));
  EXPECT_EQ(Inventory(m).back().name, "model.norm.weight");

  m.set_n_shared_experts(2);
  EXPECT_EQ(Find(Inventory(m), "model.layers.2.mlp.shared_experts.down_proj.weight").cols, 4096);

  m.set_n_routed_experts(0);
  EXPECT_THAT(NamesOfLayer(m, 4), testing::Contains("mlp.gate_proj.weight"));
}

TEST(InventoryTest, NextnTensorsAreThoseOfLaterLayers) {
  const v1::ModelSpec m = R1();
  EXPECT_TRUE(IsNextnTensor(m, "model.layers.61.eh_proj.weight"));
  EXPECT_FALSE(IsNextnTensor(m, "model.layers.60.mlp.gate.weight"));
  EXPECT_FALSE(IsNextnTensor(m, "model.layers.x.weight"));
  EXPECT_FALSE(IsNextnTensor(m, "model.layers.-61.weight"));
  EXPECT_FALSE(IsNextnTensor(m, "model.layers.61"));
  EXPECT_FALSE(IsNextnTensor(m, "model.layers.99999999999999999999.weight"));
  EXPECT_FALSE(IsNextnTensor(m, "model.norm.weight"));
}

}  // namespace
}  // namespace whalepod
