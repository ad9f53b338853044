#include "tests/worker/model/random_checkpoint.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/checkpoint/inventory.h"
#include "gtest/gtest.h"
#include "kernels/dtype.h"
#include "nlohmann/json.hpp"

namespace whalepod::testing {
namespace {

nlohmann::json Config(bool fp8) {
  nlohmann::json config = {{"architectures", {"DeepseekV3ForCausalLM"}},
                           {"model_type", "deepseek_v3"},
                           {"hidden_act", "silu"},
                           {"scoring_func", "sigmoid"},
                           {"topk_method", "noaux_tc"},
                           {"attention_bias", false},
                           {"moe_layer_freq", 1},
                           {"bos_token_id", 0},
                           {"eos_token_id", 1},
                           {"num_nextn_predict_layers", 0},
                           {"hidden_size", 200},
                           {"num_hidden_layers", 3},
                           {"first_k_dense_replace", 1},
                           {"intermediate_size", 384},
                           {"moe_intermediate_size", 192},
                           {"num_attention_heads", 8},
                           {"num_key_value_heads", 8},
                           {"q_lora_rank", 90},
                           {"kv_lora_rank", 70},
                           {"qk_nope_head_dim", 24},
                           {"qk_rope_head_dim", 10},
                           {"v_head_dim", 32},
                           {"n_routed_experts", 16},
                           {"n_shared_experts", 2},
                           {"num_experts_per_tok", 5},
                           {"n_group", 4},
                           {"topk_group", 3},
                           {"norm_topk_prob", true},
                           {"routed_scaling_factor", 2.5},
                           {"vocab_size", 523},
                           {"tie_word_embeddings", false},
                           {"rms_norm_eps", 1e-6},
                           {"rope_theta", 10000},
                           {"max_position_embeddings", 4096},
                           {"torch_dtype", "bfloat16"}};
  if (fp8) {
    config["quantization_config"] = {{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {128, 128}}};
  }
  return config;
}

// Roughly normal numbers of variance 1, the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  float Next() {
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<float>(Bits() >> 40) * 0x1p-24f;
    return sum - 6.0f;
  }

 private:
  uint64_t Bits() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

class Writer {
 public:
  explicit Writer(uint64_t seed) : random_(seed) {}

  void Add(const InventoryTensor& tensor, bool fp8_weight) {
    const int64_t count = tensor.rows * tensor.cols;
    const size_t begin = data_.size();
    const char* dtype = "BF16";
    const bool bias = tensor.role == v1::TENSOR_ROLE_ROUTER_BIAS;
    if (tensor.is_scale || bias) {
      dtype = "F32";
      for (int64_t i = 0; i < count; ++i) {
        Append(bias ? 0.1f * random_.Next() : 0.004f * (1.5f + 0.1f * random_.Next()));
      }
    } else {
      const float scale = tensor.vector ? 0.2f : fp8_weight ? 16.0f : Gain(tensor);
      for (int64_t i = 0; i < count; ++i) {
        const float value = (tensor.vector ? 1.0f : 0.0f) + scale * random_.Next();
        fp8_weight ? Append(FloatToF8E4M3(value)) : Append(ToBF16(value));
      }
      if (fp8_weight) dtype = "F8_E4M3";
    }
    header_[tensor.name] = {
        {"dtype", dtype},
        {"shape", tensor.vector ? std::vector<int64_t>{tensor.cols}
                                : std::vector<int64_t>{tensor.rows, tensor.cols}},
        {"data_offsets", {begin, data_.size()}}};
  }

  void Write(const std::string& path) const {
    std::string header = header_.dump();
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const uint64_t size = header.size();
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&size), sizeof(size));
    out << header;
    out.write(data_.data(), static_cast<std::streamsize>(data_.size()));
  }

 private:
  // Keeps activations near 1.
  static float Gain(const InventoryTensor& tensor) {
    if (tensor.role == v1::TENSOR_ROLE_EMBED) return 0.8f;
    const float gain = tensor.role == v1::TENSOR_ROLE_LM_HEAD ? 2.0f : 1.2f;
    return gain / std::sqrt(static_cast<float>(tensor.cols));
  }
  template <typename T>
  void Append(T value) {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    data_.insert(data_.end(), bytes, bytes + sizeof(T));
  }

  Random random_;
  nlohmann::ordered_json header_;
  std::vector<char> data_;
};

// Removes the folders at the end of the process.
struct Folders {
  std::vector<std::string> made;
  ~Folders() {
    for (const std::string& folder : made) {
      std::error_code ignored;
      std::filesystem::remove_all(folder, ignored);
    }
  }
};

}  // namespace

absl::StatusOr<std::string> WriteRandomCheckpoint(const RandomCheckpoint& options) {
  const std::string folder =
      absl::StrCat(::testing::TempDir(), "random_checkpoint_", options.fp8 ? "fp8_" : "bf16_",
                   options.seed, "_", getpid());
  static Folders folders;
  folders.made.push_back(folder);
  std::filesystem::create_directories(folder);
  const std::string config = Config(options.fp8).dump(1);
  std::ofstream(folder + "/config.json") << config;
  ASSIGN_OR_RETURN(const v1::ModelSpec model, ParseModelConfig(config, "config.json"));
  Writer writer(options.seed);
  for (const InventoryTensor& tensor : Inventory(model)) {
    writer.Add(tensor, options.fp8 && tensor.quantisable);
  }
  writer.Write(folder + "/model.safetensors");
  return folder;
}

}  // namespace whalepod::testing
