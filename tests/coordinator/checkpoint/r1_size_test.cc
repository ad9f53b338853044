// A checkpoint of R1's full size, its weights being holes: opens, counts exactly, and is quick.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/checkpoint/inventory.h"
#include "tests/coordinator/checkpoint/test_checkpoint.h"

namespace whalepod {
namespace {

constexpr size_t kFiles = 163;

nlohmann::json R1Config() {
  nlohmann::json c = TinyConfig();
  c.update(nlohmann::json::parse(R"({
    "hidden_size": 7168, "num_hidden_layers": 61, "first_k_dense_replace": 3,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "n_group": 8, "topk_group": 4, "vocab_size": 129280
  })"));
  c["quantization_config"]["weight_block_size"] = {128, 128};
  return c;
}

struct Entry {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  int64_t bytes;
};

// All 91,991: the main model, and layer 61 as one more expert layer with six tensors of its own.
std::vector<Entry> R1Entries() {
  nlohmann::json config = R1Config();
  config["num_hidden_layers"] = 62;
  std::vector<Entry> entries;
  for (const InventoryTensor& t : Inventory(*ParseModelConfig(config.dump(), "c"))) {
    const bool f32 = t.is_scale || t.role == v1::TENSOR_ROLE_ROUTER_BIAS;
    std::vector<int64_t> shape = {t.rows, t.cols};
    if (t.vector) shape = {t.cols};
    entries.push_back({t.name,
                       f32             ? "F32"
                       : t.quantisable ? "F8_E4M3"
                                       : "BF16",
                       shape,
                       t.rows * t.cols *
                           (f32             ? 4
                            : t.quantisable ? 1
                                            : 2)});
  }
  const auto bf16 = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t bytes = 2;
    for (const int64_t dim : shape) bytes *= dim;
    entries.push_back({"model.layers.61." + name, "BF16", std::move(shape), bytes});
  };
  bf16("embed_tokens.weight", {129280, 7168});
  bf16("enorm.weight", {7168});
  bf16("hnorm.weight", {7168});
  bf16("eh_proj.weight", {7168, 14336});
  bf16("shared_head.norm.weight", {7168});
  bf16("shared_head.head.weight", {129280, 7168});
  return entries;
}

void WriteSparse(const std::filesystem::path& dir) {
  const std::vector<Entry> entries = R1Entries();
  nlohmann::json weight_map;
  for (size_t file = 0; file < kFiles; ++file) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%06zu.safetensors", file + 1, kFiles);
    nlohmann::json header;
    int64_t at = 0;
    const size_t end = entries.size() * (file + 1) / kFiles;
    for (size_t i = entries.size() * file / kFiles; i < end; ++i) {
      header[entries[i].name] = {{"dtype", entries[i].dtype},
                                 {"shape", entries[i].shape},
                                 {"data_offsets", {at, at + entries[i].bytes}}};
      at += entries[i].bytes;
      weight_map[entries[i].name] = name;
    }
    const std::string bytes = FileBytes(header.dump(), "");
    WriteFile(dir / name, bytes);
    std::filesystem::resize_file(dir / name, bytes.size() + static_cast<size_t>(at));
  }
  WriteFile(dir / "model.safetensors.index.json",
            nlohmann::json({{"weight_map", weight_map}}).dump());
  WriteFile(dir / "config.json", R1Config().dump());
}

TEST(R1SizeTest, OpensWithThePublishedTotals) {
  const TempDir dir;
  WriteSparse(dir.path());
  const auto start = std::chrono::steady_clock::now();
  const auto opened = Checkpoint::Open(dir.path().string());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  ASSERT_TRUE(opened.ok()) << opened.status();
  std::printf("opened in %.3f s\n", took.count());
  EXPECT_EQ(opened->tensors.size(), 91'991u);
  EXPECT_EQ(opened->skipped.size(), 1'564u);
  int64_t bytes = 0;
  for (const auto& [name, stored] : opened->tensors) bytes += stored.bytes;
  EXPECT_EQ(bytes, 688'574'839'360);
  for (const std::string& name : opened->skipped) bytes -= opened->tensors.at(name).bytes;
  EXPECT_EQ(bytes, 673'150'611'808);
  EXPECT_TRUE(opened->CheckScales().ok()) << opened->CheckScales();
}

}  // namespace
}  // namespace whalepod
