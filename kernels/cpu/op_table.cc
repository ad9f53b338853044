#include "kernels/cpu/op_table.h"

#include "kernels/cpu/isa_ops.h"

namespace whalepod::cpu::WHALEPOD_ISA {

const OpTable& Ops() {
  static constexpr OpTable table = {
#ifdef WHALEPOD_HAS_embed
      .embed = Embed,
#endif
#ifdef WHALEPOD_HAS_rms_norm
      .rms_norm = RmsNorm,
#endif
#ifdef WHALEPOD_HAS_matmul
      .matmul = MatMul,
#endif
#ifdef WHALEPOD_HAS_grouped_matmul
      .grouped_matmul = GroupedMatMul,
#endif
#ifdef WHALEPOD_HAS_quantize
      .quantize = Quantize,
#endif
#ifdef WHALEPOD_HAS_rope
      .rope = Rope,
#endif
#ifdef WHALEPOD_HAS_cache_write
      .cache_write = CacheWrite,
#endif
#ifdef WHALEPOD_HAS_attention_expanded
      .attention_expanded = AttentionExpanded,
#endif
#ifdef WHALEPOD_HAS_attention_absorbed
      .attention_absorbed = AttentionAbsorbed,
#endif
#ifdef WHALEPOD_HAS_swiglu
      .swiglu = SwiGlu,
#endif
#ifdef WHALEPOD_HAS_route
      .route = Route,
#endif
#ifdef WHALEPOD_HAS_expert_combine
      .expert_combine = ExpertCombine,
#endif
#ifdef WHALEPOD_HAS_tree_add
      .tree_add = TreeAdd,
#endif
#ifdef WHALEPOD_HAS_cast
      .cast = Cast,
#endif
#ifdef WHALEPOD_HAS_sample
      .sample = Sample,
#endif
#ifdef WHALEPOD_HAS_attention_expanded
      .attention_expanded_scratch = AttentionExpandedScratch,
#endif
#ifdef WHALEPOD_HAS_attention_absorbed
      .attention_absorbed_scratch = AttentionAbsorbedScratch,
#endif
  };
  return table;
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
