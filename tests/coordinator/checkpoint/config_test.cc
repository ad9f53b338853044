#include "coordinator/checkpoint/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/coordinator/checkpoint/test_checkpoint.h"

namespace whalepod {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

v1::ModelSpec MustParse(const json& config) {
  auto model = ParseModelConfig(config.dump(), "config.json");
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *model : v1::ModelSpec();
}

std::string Error(const json& config) {
  const auto model = ParseModelConfig(config.dump(), "config.json");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(model.status().message());
}

TEST(ConfigTest, ReadsEveryField) {
  const v1::ModelSpec m = MustParse(TinyConfig());
  EXPECT_EQ(m.model_type(), "deepseek_v3");
  EXPECT_EQ(m.num_hidden_layers(), 3);
  EXPECT_EQ(m.hidden_size(), 64);
  EXPECT_EQ(m.first_k_dense_replace(), 1);
  EXPECT_EQ(m.moe_layer_freq(), 1);
  EXPECT_EQ(m.intermediate_size(), 96);
  EXPECT_EQ(m.moe_intermediate_size(), 32);
  EXPECT_EQ(m.num_attention_heads(), 2);
  EXPECT_EQ(m.q_lora_rank(), 48);
  EXPECT_EQ(m.kv_lora_rank(), 32);
  EXPECT_EQ(m.qk_nope_head_dim(), 16);
  EXPECT_EQ(m.qk_rope_head_dim(), 8);
  EXPECT_EQ(m.v_head_dim(), 16);
  EXPECT_EQ(m.n_routed_experts(), 4);
  EXPECT_EQ(m.n_shared_experts(), 1);
  EXPECT_EQ(m.num_experts_per_tok(), 2);
  EXPECT_EQ(m.n_group(), 2);
  EXPECT_EQ(m.topk_group(), 1);
  EXPECT_TRUE(m.norm_topk_prob());
  EXPECT_EQ(m.routed_scaling_factor(), 2.5);
  EXPECT_EQ(m.num_nextn_predict_layers(), 1);
  EXPECT_EQ(m.vocab_size(), 80);
  EXPECT_FALSE(m.tie_word_embeddings());
  EXPECT_EQ(m.rms_norm_eps(), 1e-6);
  EXPECT_EQ(m.rope_theta(), 10000);
  EXPECT_EQ(m.max_position_embeddings(), 163840);
  EXPECT_THAT(m.eos_token_ids(), ElementsAre(1));
  EXPECT_EQ(m.bos_token_id(), 0);
  EXPECT_EQ(m.fp8_block_rows(), 32);
  EXPECT_EQ(m.fp8_block_cols(), 32);
  EXPECT_EQ(m.yarn().factor(), 40);
  EXPECT_EQ(m.yarn().original_max_position_embeddings(), 4096);
  EXPECT_EQ(m.yarn().beta_fast(), 32);
  EXPECT_EQ(m.yarn().beta_slow(), 1);
  EXPECT_EQ(m.yarn().mscale(), 1);
  EXPECT_EQ(m.yarn().mscale_all_dim(), 1);
  EXPECT_EQ(m.yarn().attention_factor(), 0);
  EXPECT_TRUE(m.yarn().truncate());
}

TEST(ConfigTest, OptionalKeysHaveTransformersDefaults) {
  json c = TinyConfig();
  for (const char* key : {"moe_layer_freq", "num_nextn_predict_layers", "tie_word_embeddings",
                          "rms_norm_eps", "rope_theta", "bos_token_id", "eos_token_id",
                          "hidden_act", "attention_bias", "scoring_func", "topk_method",
                          "rope_scaling", "quantization_config", "num_key_value_heads"}) {
    c.erase(key);
  }
  const v1::ModelSpec m = MustParse(c);
  EXPECT_EQ(m.moe_layer_freq(), 1);
  EXPECT_EQ(m.num_nextn_predict_layers(), 0);
  EXPECT_FALSE(m.tie_word_embeddings());
  EXPECT_EQ(m.rms_norm_eps(), 1e-6);
  EXPECT_EQ(m.rope_theta(), 10000);
  EXPECT_EQ(m.bos_token_id(), 0);
  EXPECT_THAT(m.eos_token_ids(), ElementsAre(1));
  EXPECT_FALSE(m.has_yarn());
  EXPECT_EQ(m.fp8_block_rows(), 0);
}

TEST(ConfigTest, NullsMeanNone) {
  json c = TinyConfig();
  c["q_lora_rank"] = nullptr;
  c["rope_scaling"] = nullptr;
  c["quantization_config"] = nullptr;
  c["n_shared_experts"] = nullptr;
  c["eos_token_id"] = nullptr;
  c["bos_token_id"] = nullptr;
  const v1::ModelSpec m = MustParse(c);
  EXPECT_EQ(m.q_lora_rank(), 0);
  EXPECT_FALSE(m.has_yarn());
  EXPECT_EQ(m.fp8_block_rows(), 0);
  EXPECT_EQ(m.n_shared_experts(), 0);
  EXPECT_THAT(m.eos_token_ids(), IsEmpty());
  EXPECT_EQ(m.bos_token_id(), -1);
}

TEST(ConfigTest, WithoutExpertsTheirKeysAreOptional) {
  json c = TinyConfig();
  c["n_routed_experts"] = nullptr;
  for (const char* key :
       {"first_k_dense_replace", "moe_intermediate_size", "n_shared_experts", "num_experts_per_tok",
        "n_group", "topk_group", "norm_topk_prob", "routed_scaling_factor"}) {
    c.erase(key);
  }
  EXPECT_EQ(MustParse(c).n_routed_experts(), 0);
}

TEST(ConfigTest, YarnDefaultsAndExplicitFields) {
  json c = TinyConfig();
  c["rope_scaling"] = {{"type", "yarn"}, {"factor", 4}};
  v1::YarnScaling yarn = MustParse(c).yarn();
  EXPECT_EQ(yarn.original_max_position_embeddings(), 163840);
  EXPECT_EQ(yarn.beta_fast(), 32);
  EXPECT_EQ(yarn.beta_slow(), 1);
  EXPECT_EQ(yarn.mscale(), 0);
  EXPECT_EQ(yarn.mscale_all_dim(), 0);
  EXPECT_TRUE(yarn.truncate());
  c["rope_scaling"] = {{"rope_type", "yarn"},   {"factor", 4},      {"beta_fast", 16},
                       {"beta_slow", 2},        {"mscale", 0.7},    {"mscale_all_dim", 0.3},
                       {"attention_factor", 2}, {"truncate", false}};
  yarn = MustParse(c).yarn();
  EXPECT_EQ(yarn.beta_fast(), 16);
  EXPECT_EQ(yarn.beta_slow(), 2);
  EXPECT_EQ(yarn.mscale(), 0.7);
  EXPECT_EQ(yarn.mscale_all_dim(), 0.3);
  EXPECT_EQ(yarn.attention_factor(), 2);
  EXPECT_FALSE(yarn.truncate());
}

TEST(ConfigTest, RopeParametersOfNewerFiles) {
  json c = TinyConfig();
  c.erase("rope_theta");
  c.erase("rope_scaling");
  c["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  v1::ModelSpec m = MustParse(c);
  EXPECT_FALSE(m.has_yarn());
  EXPECT_EQ(m.rope_theta(), 5e5);

  c["rope_parameters"] = {{"rope_theta", 7e4}};  // no type: default
  EXPECT_EQ(MustParse(c).rope_theta(), 7e4);

  c["rope_parameters"] = {{"rope_type", "yarn"}, {"type", "yarn"},
                          {"factor", 40},        {"rope_theta", 10000.0},
                          {"mscale", 1.0},       {"original_max_position_embeddings", 4096}};
  m = MustParse(c);
  EXPECT_EQ(m.yarn().factor(), 40);
  EXPECT_EQ(m.yarn().mscale(), 1);
  EXPECT_EQ(m.rope_theta(), 10000);

  // The older keys beside it are fine where they agree.
  c["rope_scaling"] = c["rope_parameters"];
  c["rope_theta"] = 10000;
  EXPECT_EQ(MustParse(c).rope_theta(), 10000);
  c["rope_parameters"].erase("rope_theta");
  EXPECT_EQ(MustParse(c).rope_theta(), 10000);
  c["rope_theta"] = 10001;
  EXPECT_THAT(Error(c), HasSubstr("rope_theta: 10001 contradicts the 10000"));
  c["rope_theta"] = 10000;
  c["rope_scaling"]["factor"] = 41;
  EXPECT_THAT(Error(c), HasSubstr("rope_parameters: "));
  EXPECT_THAT(Error(c), HasSubstr("contradicts rope_scaling"));
  c["rope_scaling"] = {{"type", "default"}};
  EXPECT_THAT(Error(c), HasSubstr("contradicts rope_scaling"));
}

TEST(ConfigTest, EveryRequiredKeyIsAskedFor) {
  for (const char* key : {"model_type",
                          "hidden_size",
                          "num_hidden_layers",
                          "first_k_dense_replace",
                          "intermediate_size",
                          "moe_intermediate_size",
                          "num_attention_heads",
                          "q_lora_rank",
                          "kv_lora_rank",
                          "qk_nope_head_dim",
                          "qk_rope_head_dim",
                          "v_head_dim",
                          "n_routed_experts",
                          "n_shared_experts",
                          "num_experts_per_tok",
                          "n_group",
                          "topk_group",
                          "norm_topk_prob",
                          "routed_scaling_factor",
                          "vocab_size",
                          "max_position_embeddings"}) {
    json c = TinyConfig();
    c.erase(key);
    EXPECT_THAT(Error(c), testing::StartsWith(std::string("config.json: ") + key + ": missing"));
  }
}

TEST(ConfigTest, IntegersAreIntegersInRange) {
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "intermediate_size", "moe_intermediate_size",
        "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "num_experts_per_tok", "n_group", "topk_group",
        "vocab_size", "max_position_embeddings", "moe_layer_freq"}) {
    for (const json& bad :
         {json(0), json(-1), json(int64_t{1} << 31), json(INT64_MIN), json(UINT64_MAX), json(64.0),
          json("64"), json(true), json::array({64})}) {
      json c = TinyConfig();
      c[key] = bad;
      EXPECT_THAT(Error(c),
                  testing::AllOf(testing::StartsWith(std::string("config.json: ") + key + ": "),
                                 HasSubstr("found " + bad.dump())));
    }
  }
  for (const char* key : {"n_routed_experts", "n_shared_experts", "first_k_dense_replace",
                          "num_nextn_predict_layers", "eos_token_id", "bos_token_id"}) {
    for (const json& bad : {json(-1), json(int64_t{1} << 31), json(1.5), json("1")}) {
      json c = TinyConfig();
      c[key] = bad;
      EXPECT_THAT(Error(c), testing::StartsWith(std::string("config.json: ") + key + ": "));
    }
  }
}

TEST(ConfigTest, NullIsNotAValueWhereOneIsNeeded) {
  json c = TinyConfig();
  c["hidden_size"] = nullptr;
  EXPECT_THAT(Error(c), HasSubstr("hidden_size: expected a value, found null"));
}

struct BadValue {
  const char* path;  // JSON pointer
  const char* value;
  const char* message;
};

class BadValueTest : public testing::TestWithParam<BadValue> {};

TEST_P(BadValueTest, IsRefusedWithBothValues) {
  json c = TinyConfig();
  c[json::json_pointer(GetParam().path)] = json::parse(GetParam().value);
  EXPECT_THAT(Error(c),
              testing::AllOf(testing::StartsWith("config.json: "), HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    Model, BadValueTest,
    testing::Values(
        BadValue{"/model_type", "\"llama\"",
                 R"(model_type: expected "deepseek_v3", found "llama")"},
        BadValue{"/model_type", "3", "model_type: expected a string, found 3"},
        BadValue{"/hidden_act", "\"gelu\"", R"(hidden_act: expected "silu", found "gelu")"},
        BadValue{"/scoring_func", "\"softmax\"",
                 R"(scoring_func: expected "sigmoid", found "softmax")"},
        BadValue{"/topk_method", "\"greedy\"",
                 R"(topk_method: expected "noaux_tc", found "greedy")"},
        BadValue{"/attention_bias", "true", "attention_bias: expected false, found true"},
        BadValue{"/rope_interleave", "false", "rope_interleave: expected true, found false"},
        BadValue{"/num_key_value_heads", "1", "num_key_value_heads: expected 2, found 1"},
        BadValue{"/qk_head_dim", "25", "qk_head_dim: expected 24, found 25"},
        BadValue{"/head_dim", "64", "head_dim: expected 8, found 64"},
        BadValue{"/qk_rope_head_dim", "7", "qk_rope_head_dim: expected an even number, found 7"},
        BadValue{"/tie_word_embeddings", "1",
                 "tie_word_embeddings: expected true or false, found 1"},
        BadValue{"/norm_topk_prob", "\"yes\"",
                 R"(norm_topk_prob: expected true or false, found "yes")"},
        BadValue{"/rms_norm_eps", "0", "rms_norm_eps: expected a number above 0 and up to 1"},
        BadValue{"/rms_norm_eps", "\"1e-6\"", "rms_norm_eps: expected a number"},
        BadValue{"/routed_scaling_factor", "-2.5", "routed_scaling_factor: expected a number"},
        BadValue{"/rope_theta", "0", "rope_theta: expected a number above 0"},
        BadValue{"/first_k_dense_replace", "4",
                 "first_k_dense_replace: expected an integer from 0 to 3, found 4"},
        BadValue{"/eos_token_id", "80", "eos_token_id: expected an integer from 0 to 79, found 80"},
        BadValue{"/eos_token_id", "[1, 80]", "eos_token_id: expected an integer from 0 to 79"},
        BadValue{"/bos_token_id", "80",
                 "bos_token_id: expected an integer from 0 to 79, found 80"}));

INSTANTIATE_TEST_SUITE_P(
    Experts, BadValueTest,
    testing::Values(
        BadValue{"/n_routed_experts", "5",
                 "n_routed_experts: expected a multiple of n_group (2), found 5"},
        BadValue{"/n_group", "4", "n_group: expected groups of at least 2 experts, found 4 groups"},
        BadValue{"/topk_group", "3", "topk_group: expected at most n_group (2), found 3"},
        BadValue{"/num_experts_per_tok", "3",
                 "num_experts_per_tok: expected at most the 2 experts of topk_group (1) groups, "
                 "found 3"}));

INSTANTIATE_TEST_SUITE_P(
    Rope, BadValueTest,
    testing::Values(
        BadValue{"/rope_scaling", "3", "rope_scaling: expected an object, found 3"},
        BadValue{"/rope_scaling", "{}", "rope_scaling.type: missing"},
        BadValue{"/rope_scaling/type", "\"linear\"",
                 R"(rope_scaling.type: expected "yarn" or "default", found "linear")"},
        BadValue{"/rope_scaling/rope_type", "\"default\"",
                 R"(rope_scaling.type: is "yarn" where rope_type is "default")"},
        BadValue{"/rope_scaling/factor", "0.5", "rope_scaling.factor: expected a number from 1"},
        BadValue{"/rope_scaling/factor", "null", "rope_scaling.factor: expected a value"},
        BadValue{"/rope_scaling/original_max_position_embeddings", "0",
                 "rope_scaling.original_max_position_embeddings: expected an integer"},
        BadValue{"/rope_scaling/beta_fast", "0.5",
                 "rope_scaling.beta_fast: expected at least beta_slow (1), found 0.5"},
        BadValue{"/rope_scaling/mscale", "-1", "rope_scaling.mscale: expected a number"},
        BadValue{"/rope_scaling/attention_factor", "0",
                 "rope_scaling.attention_factor: expected a number above 0"},
        BadValue{"/rope_scaling/truncate", "1",
                 "rope_scaling.truncate: expected true or false, found 1"},
        BadValue{"/rope_scaling/partial_rotary_factor", "0.5",
                 "rope_scaling.partial_rotary_factor: expected 1.0, found 0.5"}));

INSTANTIATE_TEST_SUITE_P(
    Quantisation, BadValueTest,
    testing::Values(BadValue{"/quantization_config", "[]",
                             "quantization_config: expected an object"},
                    BadValue{"/quantization_config/quant_method", "\"awq\"",
                             R"(quantization_config.quant_method: expected "fp8", found "awq")"},
                    BadValue{"/quantization_config/fmt", "\"e5m2\"",
                             R"(quantization_config.fmt: expected "e4m3", found "e5m2")"},
                    BadValue{"/quantization_config/activation_scheme", "\"static\"",
                             R"(activation_scheme: expected "dynamic", found "static")"},
                    BadValue{"/quantization_config/weight_block_size", "null",
                             "weight_block_size: expected a value, found null"},
                    BadValue{"/quantization_config/weight_block_size", "128",
                             "weight_block_size: expected 2 integers, found 1"},
                    BadValue{"/quantization_config/weight_block_size", "[128,128,1]",
                             "weight_block_size: expected 2 integers, found 3"},
                    BadValue{"/quantization_config/weight_block_size", "[128,0]",
                             "weight_block_size: expected an integer from 1 to 65536, found 0"},
                    BadValue{"/quantization_config/weight_block_size", "[128,100]",
                             "weight_block_size: expected multiples of 32, found 100"}));

TEST(ConfigTest, GroupsOfOneExpertAreFineAlone) {
  json c = TinyConfig();
  c["n_group"] = 1;
  c["topk_group"] = 1;
  c["n_routed_experts"] = 1;
  c["num_experts_per_tok"] = 1;
  EXPECT_EQ(MustParse(c).n_routed_experts(), 1);
}

TEST(ConfigTest, ShapesThatMultiplyToNonsenseAreRefused) {
  json c = TinyConfig();
  c["hidden_size"] = 1 << 24;
  c["intermediate_size"] = 1 << 24;
  EXPECT_THAT(Error(c), HasSubstr("parameters, expected at most 1e+15"));
  c = TinyConfig();
  c["num_hidden_layers"] = 1024;
  c["n_routed_experts"] = 16384;
  EXPECT_THAT(Error(c), HasSubstr("n_routed_experts: 16384 in each of 1024 layers"));
}

TEST(ConfigTest, TextThatIsNotOneObjectIsRefused) {
  for (const char* text :
       {"", "{", "[]", "3", "null", "{}x", "{\"a\":1,\"a\":2}", "{\"a\":\"\xff\"}"}) {
    const auto model = ParseModelConfig(text, "config.json");
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(model.status().message()), testing::StartsWith("config.json: "));
  }
  EXPECT_THAT(std::string(ParseModelConfig("{\"a\":1,\"a\":2}", "c").status().message()),
              HasSubstr("key \"a\" twice"));
  EXPECT_THAT(std::string(ParseModelConfig("[]", "c").status().message()),
              HasSubstr("c: expected an object, found []"));
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "[";
  EXPECT_THAT(std::string(ParseModelConfig(deep, "c").status().message()),
              HasSubstr("nested deeper than 32"));
}

TEST(GenerationConfigTest, OverridesWhatItStates) {
  v1::ModelSpec m = MustParse(TinyConfig());
  GenerationDefaults defaults;
  ASSERT_TRUE(ApplyGenerationConfig("{}", "g", m, defaults).ok());
  EXPECT_THAT(m.eos_token_ids(), ElementsAre(1));
  EXPECT_EQ(defaults.temperature, 1.0f);
  EXPECT_EQ(defaults.top_p, 1.0f);
  ASSERT_TRUE(ApplyGenerationConfig(
                  R"({"eos_token_id":[5,7],"bos_token_id":3,"temperature":0.6,"top_p":0.95})", "g",
                  m, defaults)
                  .ok());
  EXPECT_THAT(m.eos_token_ids(), ElementsAre(5, 7));
  EXPECT_EQ(m.bos_token_id(), 3);
  EXPECT_EQ(defaults.temperature, 0.6f);
  EXPECT_EQ(defaults.top_p, 0.95f);
  ASSERT_TRUE(ApplyGenerationConfig(
                  R"({"top_k":20,"min_p":0.05,"repetition_penalty":1.05,"max_new_tokens":2048})",
                  "g", m, defaults)
                  .ok());
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_EQ(defaults.min_p, 0.05f);
  EXPECT_EQ(defaults.repetition_penalty, 1.05f);
  EXPECT_EQ(defaults.max_new_tokens, 2048);
  EXPECT_EQ(defaults.top_p, 0.95f);
}

TEST(GenerationConfigTest, BadValuesAreRefused) {
  for (const char* text :
       {"[]", "{", R"({"eos_token_id":80})", R"({"eos_token_id":["a"]})", R"({"bos_token_id":-1})",
        R"({"temperature":-1})", R"({"temperature":2.5})", R"({"temperature":"hot"})",
        R"({"top_p":0})", R"({"top_p":1.5})", R"({"top_k":-1})", R"({"min_p":2})",
        R"({"repetition_penalty":0})", R"({"max_new_tokens":0})"}) {
    v1::ModelSpec m = MustParse(TinyConfig());
    GenerationDefaults defaults;
    const absl::Status status = ApplyGenerationConfig(text, "g", m, defaults);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), testing::StartsWith("g: "));
  }
}

}  // namespace
}  // namespace whalepod
