#include "coordinator/plan/skipped.h"

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "coordinator/checkpoint/inventory.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

int64_t BytesOf(const v1::ModelSpec& model, const InventoryTensor& tensor) {
  v1::DType dtype = v1::DTYPE_BF16;
  if (tensor.is_scale || tensor.role == v1::TENSOR_ROLE_ROUTER_BIAS) dtype = v1::DTYPE_F32;
  if (!tensor.is_scale && tensor.quantisable && model.fp8_block_rows() > 0) {
    dtype = v1::DTYPE_F8_E4M3;
  }
  return tensor.rows * tensor.cols * DTypeBytes(dtype);
}

}  // namespace

std::vector<SkippedInfo> NextnTensors(const v1::ModelSpec& model) {
  std::vector<SkippedInfo> skipped;
  const int64_t matrix = model.vocab_size() * model.hidden_size() * 2;
  const int64_t norm = model.hidden_size() * 2;
  for (int64_t n = 0; n < model.num_nextn_predict_layers(); ++n) {
    // One whole decoder layer of the kind that a last layer of the main model would be.
    v1::ModelSpec deeper = model;
    const int64_t layer = model.num_hidden_layers() + n;
    deeper.set_num_hidden_layers(layer + 1);
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    for (const InventoryTensor& tensor : Inventory(deeper)) {
      if (tensor.layer == layer && tensor.name.compare(0, prefix.size(), prefix) == 0) {
        skipped.push_back({tensor.name, BytesOf(model, tensor)});
      }
    }
    skipped.push_back({prefix + "embed_tokens.weight", matrix});
    skipped.push_back({prefix + "enorm.weight", norm});
    skipped.push_back({prefix + "hnorm.weight", norm});
    skipped.push_back({prefix + "eh_proj.weight", 2 * model.hidden_size() * norm});
    skipped.push_back({prefix + "shared_head.norm.weight", norm});
    skipped.push_back({prefix + "shared_head.head.weight", matrix});
  }
  return skipped;
}

namespace {

std::string ReasonOf(const v1::ModelSpec& model, const std::string& name) {
  if (IsNextnTensor(model, name)) return "multi-token prediction layer";
  return name == "lm_head.weight" ? "the head is tied to the embedding"
                                  : "computed from the config";
}

}  // namespace

void AddSkipped(const Checkpoint* checkpoint, v1::ShardingPlan* plan) {
  std::vector<SkippedInfo> skipped;
  if (checkpoint == nullptr) {
    skipped = NextnTensors(plan->model());
  } else {
    for (const std::string& name : checkpoint->skipped) {
      const auto it = checkpoint->tensors.find(name);
      skipped.push_back({name, it == checkpoint->tensors.end() ? 0 : it->second.bytes});
    }
  }
  for (const SkippedInfo& info : skipped) {
    v1::SkippedTensor* out = plan->add_skipped();
    out->set_name(static_cast<uint32_t>(plan->strings_size()));
    out->set_bytes(info.bytes);
    out->set_reason(ReasonOf(plan->model(), info.name));
    plan->add_strings(info.name);
  }
}

}  // namespace whalepod
