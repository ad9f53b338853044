#include "tests/coordinator/plan/fake_checkpoint.h"

#include "coordinator/checkpoint/inventory.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

int64_t Pick(std::mt19937_64& random, std::initializer_list<int64_t> values) {
  return *(values.begin() + static_cast<int64_t>(random() % values.size()));
}

}  // namespace

v1::ModelSpec RandomModel(std::mt19937_64& random) {
  v1::ModelSpec m;
  m.set_name("random");
  m.set_model_type("deepseek_v3");
  m.set_num_hidden_layers(Pick(random, {1, 2, 3, 5}));
  m.set_hidden_size(Pick(random, {32, 48, 96}));
  m.set_first_k_dense_replace(Pick(random, {0, 1, 2}));
  m.set_moe_layer_freq(Pick(random, {1, 1, 2}));
  m.set_intermediate_size(Pick(random, {128, 192, 256}) * 2);
  m.set_moe_intermediate_size(Pick(random, {128, 256, 384}));
  m.set_num_attention_heads(Pick(random, {4, 8, 12}));
  m.set_q_lora_rank(Pick(random, {0, 24, 40}));
  m.set_kv_lora_rank(Pick(random, {16, 24, 33}));
  m.set_qk_nope_head_dim(Pick(random, {8, 12, 16}));
  m.set_qk_rope_head_dim(Pick(random, {2, 4, 8}));
  m.set_v_head_dim(Pick(random, {32, 64}));
  m.set_n_routed_experts(Pick(random, {0, 4, 6, 8, 12}));
  m.set_n_shared_experts(Pick(random, {0, 1, 2}));
  m.set_num_experts_per_tok(m.n_routed_experts() == 0 ? 0 : 2);
  m.set_n_group(1);
  m.set_topk_group(1);
  m.set_vocab_size(Pick(random, {512, 100, 777, 2048}));
  m.set_tie_word_embeddings(random() % 3 == 0);
  m.set_rms_norm_eps(1e-6);
  m.set_rope_theta(10000);
  m.set_max_position_embeddings(4096);
  if (random() % 2 == 0) {
    m.set_fp8_block_rows(Pick(random, {16, 20, 128}));
    m.set_fp8_block_cols(Pick(random, {16, 24, 128}));
  }
  return m;
}

Checkpoint FakeCheckpoint(const v1::ModelSpec& model) {
  Checkpoint checkpoint;
  checkpoint.dir = "fake";
  checkpoint.model = model;
  checkpoint.files = {"a.safetensors", "b.safetensors", "c.safetensors"};
  int64_t end[] = {1000, 2000, 3000};
  uint32_t file = 0;
  const auto add = [&](const std::string& name, v1::DType dtype, std::vector<int64_t> shape) {
    StoredTensor stored;
    stored.dtype = dtype;
    stored.bytes = DTypeBytes(dtype);
    for (const int64_t size : shape) stored.bytes *= size;
    stored.shape = std::move(shape);
    stored.file = file;
    stored.offset = end[file];
    end[file] += stored.bytes;
    file = (file + 1) % 3;
    checkpoint.tensors[name] = stored;
  };
  const bool fp8 = model.fp8_block_rows() > 0;
  for (const InventoryTensor& tensor : Inventory(model)) {
    const bool packed = fp8 && tensor.quantisable && !tensor.is_scale;
    const std::vector<int64_t> shape = tensor.vector
                                           ? std::vector<int64_t>{tensor.cols}
                                           : std::vector<int64_t>{tensor.rows, tensor.cols};
    add(tensor.name, packed ? v1::DTYPE_F8_E4M3 : v1::DTYPE_F32, shape);
  }
  add("model.layers.99.extra.weight", v1::DTYPE_BF16, {3, 5});
  checkpoint.skipped = {"model.layers.99.extra.weight"};
  return checkpoint;
}

void RandomLayout(std::mt19937_64& random, const v1::ModelSpec& model, PlanRequest* request) {
  request->tp = static_cast<int>(Pick(random, {1, 2, 4}));
  request->dp = static_cast<int>(Pick(random, {1, 2, 3}));
  const int world = request->tp * request->dp;
  std::vector<int> eps;
  for (int ep = 1; ep <= world; ++ep) {
    if (world % ep != 0) continue;
    const bool experts = model.n_routed_experts() > 0;
    if (experts && ep > model.n_routed_experts()) continue;
    const int moe_tp = world / ep;
    if (experts &&
        (model.moe_intermediate_size() % moe_tp != 0 || model.hidden_size() % moe_tp != 0)) {
      continue;
    }
    eps.push_back(ep);
  }
  request->ep = eps.empty() ? 1 : eps[random() % eps.size()];
}

}  // namespace whalepod
