#include "proto/plan/memory.h"

#include "base/units.h"

namespace whalepod {

int64_t DTypeBytes(v1::DType dtype) {
  switch (dtype) {
    case v1::DTYPE_F32:
      return 4;
    case v1::DTYPE_BF16:
      return 2;
    case v1::DTYPE_F16:
      return 2;
    case v1::DTYPE_F8_E4M3:
      return 1;
    default:
      return 0;
  }
}

int64_t PackedWeightBytes(v1::DType dtype, int64_t n, int64_t k) {
  constexpr int64_t kPanelRows = 32;
  return RoundUp(n, kPanelRows) * RoundUp(k, 2) * DTypeBytes(dtype);
}

int64_t KvBlockBytes(const v1::ModelSpec& model, const v1::RuntimeSpec& runtime, int64_t layers) {
  const int64_t width = model.kv_lora_rank() + model.qk_rope_head_dim();
  return layers * runtime.kv_block_tokens() * width * DTypeBytes(runtime.compute_dtype());
}

int64_t KvBlocks(const v1::ShardingPlan& header, const v1::RankPart& part) {
  const int64_t block =
      KvBlockBytes(header.model(), header.runtime(), part.layer_end() - part.layer_begin());
  if (block <= 0) return 0;
  for (const v1::LedgerItem& item : part.ledger().items()) {
    if (item.kind() == v1::LEDGER_KIND_KV) return item.bytes() / block;
  }
  return 0;
}

}  // namespace whalepod
