// The size of the activation arena. It must be at least what the worker's forward pass and sampler
// take from it; whoever changes a buffer there changes this file with it.
#include <algorithm>

#include "base/units.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

// Buffers of every layer, in bytes for one token of the rank's own DP group.
int64_t BytesPerToken(const v1::ModelSpec& m, int64_t heads, int64_t act) {
  const int64_t hidden = m.hidden_size();
  const int64_t qk = m.qk_nope_head_dim() + m.qk_rope_head_dim();
  const int64_t latent = m.kv_lora_rank() + m.qk_rope_head_dim();
  const int64_t residual = 3 * hidden * 4;      // h, a layer's sum, its gathered slices
  const int64_t partials = 2 * hidden * 4;      // o_proj or down, sent and received
  const int64_t norm = hidden * (act + 2 + 4);  // normalised, quantised, scales
  const int64_t q_a = m.q_lora_rank() * (4 + 2 * act + 2);
  const int64_t q = heads * qk * (4 + act);  // raw, rotated
  const int64_t kv = latent * (4 + act);
  const int64_t absorbed = heads * (2 * latent + m.kv_lora_rank()) * (4 + act);
  const int64_t out = heads * m.v_head_dim() * (4 + act + 2);
  return residual + partials + norm + q_a + q + kv + absorbed + out;
}

}  // namespace

int64_t ActivationBytes(const v1::ModelSpec& model, const v1::Layout& layout,
                        const v1::RuntimeSpec& runtime, int rank) {
  const RankCoords at = CoordsOf(layout, rank);
  const int64_t act = DTypeBytes(runtime.compute_dtype());
  const int64_t tokens = runtime.max_num_batched_tokens();
  const int64_t gathered = tokens * layout.dp();
  const int64_t hidden = model.hidden_size();
  const int64_t heads = CeilDiv(model.num_attention_heads(), layout.tp());
  int64_t bytes = tokens * BytesPerToken(model, heads, act);

  int64_t ffn_width = 0;
  if (DenseLayers(model) > 0) ffn_width = CeilDiv(model.intermediate_size(), layout.tp());
  if (MoeLayers(model) > 0) {
    const int64_t shared = model.n_shared_experts() * model.moe_intermediate_size();
    ffn_width = std::max(ffn_width, CeilDiv(shared, layout.tp()));
    const int64_t local = static_cast<int64_t>(ExpertsOf(layout, at.ep).size());
    const int64_t slots = gathered * std::min(model.num_experts_per_tok(), local);
    const int64_t width = CeilDiv(model.moe_intermediate_size(), layout.moe_tp());
    const int64_t columns = CeilDiv(hidden, layout.moe_tp());
    bytes += gathered * (hidden * (act + 2 + 4) + hidden * 4 + columns * 4 * 2 +
                         model.num_experts_per_tok() * 24 + model.n_routed_experts() * 8);
    // Gate and up (F32), SwiGLU outputs own and gathered with their quantised copy, outputs.
    bytes += slots * (width * (8 + act) + model.moe_intermediate_size() * (2 * act + 2 + 1) +
                      columns * 4 + 16);
    // Partials of the slices this rank owns, from every rank.
    bytes += tokens * hidden * 4 * std::max(1, layout.ep());
  }
  bytes += tokens * ffn_width * (8 + act + 2 + 1);

  const int64_t rows = runtime.max_num_seqs();
  const Range vocab = VocabIdsOf(model, layout, at.tp);
  bytes += rows * (vocab.size() * 4 + hidden * (4 + act + 2) + kVocabularySegments * 8 + 64 * 12);
  // cos and sin, and attention's scratch: scores, and keys and values of one head for each thread.
  bytes += runtime.max_model_len() * model.qk_rope_head_dim() * 4;
  const int64_t threads = std::max<int64_t>(1, runtime.threads_per_rank());
  bytes +=
      threads * runtime.max_model_len() * (4 + (model.qk_nope_head_dim() + model.v_head_dim()) * 4);
  bytes += threads * 2 * kMiB;
  bytes += rows * CeilDiv(runtime.max_model_len(), runtime.kv_block_tokens()) * 8;
  return RoundUp(bytes + bytes / 8 + 4 * kMiB, 4096);
}

}  // namespace whalepod
