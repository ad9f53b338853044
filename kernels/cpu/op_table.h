// The functions of one instruction path, chosen once when a CPU backend is made.
#pragma once

#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"

namespace whalepod::cpu {

// Every function takes valid, non-empty Args (kernels/ops.cc has checked them) and returns when the
// result is written.
struct OpTable {
  void (*embed)(const EmbedArgs&, ThreadPool&);
  void (*rms_norm)(const RmsNormArgs&, ThreadPool&);
  void (*matmul)(const MatMulArgs&, ThreadPool&);
  void (*grouped_matmul)(const GroupedMatMulArgs&, ThreadPool&);
  void (*quantize)(const QuantizeArgs&, ThreadPool&);
  void (*rope)(const RopeArgs&, ThreadPool&);
  void (*cache_write)(const CacheWriteArgs&, ThreadPool&);
  void (*attention_expanded)(const AttentionExpandedArgs&, ThreadPool&);
  void (*attention_absorbed)(const AttentionAbsorbedArgs&, ThreadPool&);
  void (*swiglu)(const SwiGluArgs&, ThreadPool&);
  void (*route)(const RouteArgs&, ThreadPool&);
  void (*expert_combine)(const ExpertCombineArgs&, ThreadPool&);
  void (*tree_add)(const TreeAddArgs&, ThreadPool&);
  void (*cast)(const CastArgs&, ThreadPool&);
  void (*sample)(const SampleArgs&, ThreadPool&);
  void (*sample_filtered)(const SampleFilteredArgs&, ThreadPool&);
  int64_t (*attention_expanded_scratch)(int64_t max_context, int64_t max_tokens, int64_t nope,
                                        int64_t v, DType type, int threads);
  int64_t (*attention_absorbed_scratch)(int64_t max_context, int threads);
};

}  // namespace whalepod::cpu
