#include "kernels/cpu/op_table.h"

#include "kernels/cpu/isa_ops.h"

namespace whalepod::cpu::WHALEPOD_ISA {

const OpTable& Ops() {
  static constexpr OpTable table = {
      .embed = Embed,
      .rms_norm = RmsNorm,
      .matmul = MatMul,
      .grouped_matmul = GroupedMatMul,
      .quantize = Quantize,
      .rope = Rope,
      .cache_write = CacheWrite,
      .attention_expanded = AttentionExpanded,
      .attention_absorbed = AttentionAbsorbed,
      .swiglu = SwiGlu,
      .route = Route,
      .expert_combine = ExpertCombine,
      .tree_add = TreeAdd,
      .cast = Cast,
      .sample = Sample,
      .sample_filtered = SampleFiltered,
      .attention_expanded_scratch = AttentionExpandedScratch,
      .attention_absorbed_scratch = AttentionAbsorbedScratch,
  };
  return table;
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
