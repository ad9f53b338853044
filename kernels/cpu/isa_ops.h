// Declares the ops of the instruction path being compiled: kernels/cpu/<op>.cc is compiled once per
// path with WHALEPOD_ISA = portable, avx2 or avx512 and defines its function in
// namespace whalepod::cpu::WHALEPOD_ISA. Rules for those files:
// - all code lives in that namespace (helpers static or in an unnamed namespace inside it);
// - nothing inline from elsewhere that might stay out of line (std:: containers, algorithms,
//   absl::StrCat ...): the linker keeps one copy for all paths. tests/kernels checks this.
#pragma once

#include "kernels/cpu/op_table.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace whalepod::cpu {

#define WHALEPOD_DECLARE_OPS(isa)                                                         \
  namespace isa {                                                                         \
  void Embed(const EmbedArgs& args, ThreadPool& pool);                                    \
  void RmsNorm(const RmsNormArgs& args, ThreadPool& pool);                                \
  void MatMul(const MatMulArgs& args, ThreadPool& pool);                                  \
  void GroupedMatMul(const GroupedMatMulArgs& args, ThreadPool& pool);                    \
  void Quantize(const QuantizeArgs& args, ThreadPool& pool);                              \
  void Rope(const RopeArgs& args, ThreadPool& pool);                                      \
  void CacheWrite(const CacheWriteArgs& args, ThreadPool& pool);                          \
  void AttentionExpanded(const AttentionExpandedArgs& args, ThreadPool& pool);            \
  void AttentionAbsorbed(const AttentionAbsorbedArgs& args, ThreadPool& pool);            \
  void SwiGlu(const SwiGluArgs& args, ThreadPool& pool);                                  \
  void Route(const RouteArgs& args, ThreadPool& pool);                                    \
  void ExpertCombine(const ExpertCombineArgs& args, ThreadPool& pool);                    \
  void TreeAdd(const TreeAddArgs& args, ThreadPool& pool);                                \
  void Cast(const CastArgs& args, ThreadPool& pool);                                      \
  void Sample(const SampleArgs& args, ThreadPool& pool);                                  \
  void SampleFiltered(const SampleFilteredArgs& args, ThreadPool& pool);                  \
  int64_t AttentionExpandedScratch(int64_t max_context, int64_t max_tokens, int64_t nope, \
                                   int64_t v, DType type, int threads);                   \
  int64_t AttentionAbsorbedScratch(int64_t max_context, int threads);                     \
  /* The table of all of the above; in op_table.cc. */                                    \
  const OpTable& Ops();                                                                   \
  }

WHALEPOD_DECLARE_OPS(portable)
WHALEPOD_DECLARE_OPS(avx2)
WHALEPOD_DECLARE_OPS(avx512)
#undef WHALEPOD_DECLARE_OPS

}  // namespace whalepod::cpu
