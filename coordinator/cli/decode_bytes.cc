#include "coordinator/cli/decode_bytes.h"

#include "coordinator/checkpoint/inventory.h"

namespace whalepod {
namespace {

int64_t SizeOfType(v1::DType type) {
  switch (type) {
    case v1::DTYPE_F8_E4M3:
      return 1;
    case v1::DTYPE_BF16:
    case v1::DTYPE_F16:
      return 2;
    default:
      return 4;
  }
}

v1::DType TypeOf(const InventoryTensor& tensor, const v1::ModelSpec& model,
                 const Checkpoint* checkpoint) {
  if (checkpoint != nullptr) {
    const auto stored = checkpoint->tensors.find(tensor.name);
    if (stored != checkpoint->tensors.end()) return stored->second.dtype;
  }
  if (tensor.is_scale || tensor.role == v1::TENSOR_ROLE_ROUTER_BIAS) return v1::DTYPE_F32;
  return tensor.quantisable && model.fp8_block_rows() > 0 ? v1::DTYPE_F8_E4M3 : v1::DTYPE_BF16;
}

bool IsExpert(v1::TensorRole role) {
  return role == v1::TENSOR_ROLE_EXPERT_GATE || role == v1::TENSOR_ROLE_EXPERT_UP ||
         role == v1::TENSOR_ROLE_EXPERT_DOWN;
}

}  // namespace

DecodeBytes BytesPerToken(const v1::ModelSpec& model, const Checkpoint* checkpoint,
                          v1::DType cache_type) {
  DecodeBytes bytes;
  for (const InventoryTensor& tensor : Inventory(model)) {
    // All experts of a layer have one size: the first top_k stand for those that are chosen.
    if (IsExpert(tensor.role) && tensor.expert >= model.num_experts_per_tok()) continue;
    const v1::DType type = TypeOf(tensor, model, checkpoint);
    const int64_t size = tensor.rows * tensor.cols * SizeOfType(type);
    if (tensor.role == v1::TENSOR_ROLE_EMBED) {
      bytes.embedding_row = tensor.cols * SizeOfType(type);
      if (!model.tie_word_embeddings()) continue;
    }
    if (type == v1::DTYPE_F8_E4M3) {
      bytes.fp8 += size;
    } else if (type == v1::DTYPE_F32) {
      bytes.f32 += size;
    } else {
      bytes.half += size;
    }
  }
  bytes.kv_per_position = model.num_hidden_layers() *
                          (model.kv_lora_rank() + model.qk_rope_head_dim()) *
                          SizeOfType(cache_type);
  return bytes;
}

}  // namespace whalepod
