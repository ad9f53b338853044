#include "tests/coordinator/checkpoint/test_checkpoint.h"

#include <stdlib.h>

#include <fstream>
#include <utility>

#include "base/check.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/checkpoint/inventory.h"

namespace whalepod {
namespace {

int64_t BytesOf(const TestTensor& tensor) {
  int64_t bytes = tensor.dtype == "F8_E4M3" ? 1 : tensor.dtype == "F32" ? 4 : 2;
  for (const int64_t dim : tensor.shape) bytes *= dim;
  return bytes;
}

}  // namespace

nlohmann::json TinyConfig() {
  return nlohmann::json::parse(R"({
    "model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 3,
    "first_k_dense_replace": 1, "moe_layer_freq": 1, "intermediate_size": 96,
    "moe_intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2,
    "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
    "v_head_dim": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "n_group": 2, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
    "num_nextn_predict_layers": 1, "vocab_size": 80, "tie_word_embeddings": false,
    "rms_norm_eps": 1e-6, "rope_theta": 10000, "max_position_embeddings": 163840,
    "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu", "attention_bias": false,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                     "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                            "weight_block_size": [32, 32]}
  })");
}

TestCheckpoint TestCheckpoint::Make(nlohmann::json config) {
  TestCheckpoint checkpoint;
  checkpoint.config = std::move(config);
  checkpoint.files = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  const auto model = ParseModelConfig(checkpoint.config.dump(), "config.json");
  CHECK_OK(model.status());
  int file = 0;
  for (const InventoryTensor& t : Inventory(*model)) {
    const bool fp8 = t.quantisable && model->fp8_block_rows() > 0;
    const bool f32 = t.is_scale || t.role == v1::TENSOR_ROLE_ROUTER_BIAS;
    std::vector<int64_t> shape = {t.rows, t.cols};
    if (t.vector) shape = {t.cols};
    // Alternating: a weight and its scales are in different files.
    checkpoint.Add(t.name, f32 ? "F32" : fp8 ? "F8_E4M3" : "BF16", shape, file++ % 2);
  }
  return checkpoint;
}

void TestCheckpoint::Add(const std::string& name, const std::string& dtype,
                         std::vector<int64_t> shape, int file) {
  TestTensor tensor{dtype, std::move(shape), "", file};
  tensor.data.resize(static_cast<size_t>(BytesOf(tensor)));
  // Bytes below 0x3f: positive and finite in every type, also as scales.
  for (size_t i = 0; i < tensor.data.size(); ++i) {
    tensor.data[i] = static_cast<char>((i * 7 + tensors.size()) % 0x3f);
  }
  tensors[name] = std::move(tensor);
}

void TestCheckpoint::Write(const std::filesystem::path& dir) const {
  nlohmann::json weight_map(index);
  for (size_t file = 0; file < files.size(); ++file) {
    nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      if (tensor.file != static_cast<int>(file)) continue;
      header[name] = {{"dtype", tensor.dtype},
                      {"shape", tensor.shape},
                      {"data_offsets", {data.size(), data.size() + tensor.data.size()}}};
      data += tensor.data;
      if (index.empty()) weight_map[name] = files[file];
    }
    WriteFile(dir / files[file], FileBytes(header.dump() + "   ", data));
  }
  if (with_index) {
    const nlohmann::json document = {{"metadata", {{"total_size", 1}}}, {"weight_map", weight_map}};
    WriteFile(dir / "model.safetensors.index.json", document.dump());
  }
  WriteFile(dir / "config.json", config.dump());
  if (!generation.is_null()) WriteFile(dir / "generation_config.json", generation.dump());
}

std::string FileBytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i));
  return bytes + header + data;
}

void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary);
  out << bytes;
  out.close();
  CHECK(out.good());
}

TempDir::TempDir() {
  std::string name = (std::filesystem::temp_directory_path() / "whalepod-test-XXXXXX").string();
  CHECK(::mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace whalepod
