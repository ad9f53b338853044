// The size of the activation arena: the buffers of worker/model, block by block in the order in
// which Forward carves them. Whoever changes a buffer there changes this file with it; the worker
// refuses an arena that is too small, and a test compares both for every layout.
#include <algorithm>

#include "base/units.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

// As the worker's ActivationArena: every buffer starts at a multiple of 64 bytes.
class Counter {
 public:
  void Take(int64_t bytes) {
    used_ += RoundUp(bytes, 64);
    needed_ = std::max(needed_, used_);
  }
  int64_t mark() const { return used_; }
  void Reset(int64_t mark) { used_ = mark; }
  int64_t needed() const { return needed_; }

 private:
  int64_t used_ = 0;
  int64_t needed_ = 0;
};

struct Shapes {
  const v1::ModelSpec& model;
  const v1::Layout& layout;
  const v1::RuntimeSpec& runtime;
  RankCoords at;
  int64_t act;     // bytes of an activation
  int64_t tokens;  // of a DP group in a step
  int64_t all;     // of all DP groups
  int64_t hidden;
  int64_t slice;      // hidden columns a TP rank owns, at most
  int64_t positions;  // max_model_len in whole blocks
};

constexpr int64_t kF32 = 4;

// The FP8 form of a product's input: values as BF16 and a scale a group.
void TakeQuantised(const Shapes& s, int64_t rows, int64_t k, int64_t segments, Counter& c) {
  if (s.runtime.activation_quant() != v1::ACTIVATION_QUANT_FP8) return;
  const int64_t block = s.model.fp8_block_cols() > 0 ? s.model.fp8_block_cols() : 128;
  c.Take(rows * k * 2);
  c.Take(rows * (k / block + 1 + segments) * kF32);
}

// What the attention ops ask for as scratch (AttentionExpandedScratch, AttentionAbsorbedScratch):
// keys and values of a few heads, and each thread's scores.
int64_t AttentionScratch(const Shapes& s) {
  constexpr int64_t kExpandedRows = 32, kExpandedTile = 16, kHeadsAtOnce = 4;
  constexpr int64_t kAbsorbedRows = 16, kAbsorbedTile = 32;
  const int64_t threads = std::max<int64_t>(1, s.runtime.threads_per_rank());
  const int64_t heads = std::min(kHeadsAtOnce, threads);
  const auto scores = [&](int64_t rows, int64_t tile) {
    return threads * rows * RoundUp(s.positions, tile) * kF32;
  };
  const int64_t expanded = RoundUp(heads * s.positions * s.model.qk_nope_head_dim() * s.act, 64) +
                           RoundUp(heads * s.positions * s.model.v_head_dim() * s.act, 64) +
                           scores(std::min(kExpandedRows, RoundUp(s.tokens, 4)), kExpandedTile);
  return std::max(expanded, scores(kAbsorbedRows, kAbsorbedTile));
}

// MlaBlock.
void TakeAttention(const Shapes& s, Counter& c) {
  const v1::ModelSpec& m = s.model;
  constexpr int64_t kAbsorbedRows = 256;
  const int64_t heads = m.num_attention_heads() / s.layout.tp();
  const int64_t qk = m.qk_nope_head_dim() + m.qk_rope_head_dim();
  const int64_t latent = m.kv_lora_rank() + m.qk_rope_head_dim();
  const int64_t absorbed_rows = std::min(s.tokens, kAbsorbedRows);
  const int64_t out = heads * m.v_head_dim();
  c.Take(s.tokens * s.hidden * s.act);
  TakeQuantised(s, s.tokens, s.hidden, 1, c);
  if (m.q_lora_rank() > 0) {
    c.Take(s.tokens * m.q_lora_rank() * kF32);
    c.Take(s.tokens * m.q_lora_rank() * s.act);
    TakeQuantised(s, s.tokens, m.q_lora_rank(), 1, c);
  }
  c.Take(s.tokens * heads * qk * kF32);
  c.Take(s.tokens * heads * qk * s.act);
  c.Take(s.tokens * latent * kF32);
  if (s.layout.tp() > 1) {
    c.Take(s.tokens *
           (PanelPart(m.q_lora_rank(), s.layout.tp(), s.at.tp).size() +
            PanelPart(latent, s.layout.tp(), s.at.tp).size()) *
           kF32);
    c.Take(s.tokens * (m.q_lora_rank() + latent) * kF32);
  }
  c.Take(s.tokens * latent * s.act);
  c.Take(absorbed_rows * heads * latent * s.act);
  c.Take(absorbed_rows * heads * m.kv_lora_rank() * s.act);
  c.Take(s.tokens * out * s.act);
  TakeQuantised(s, s.tokens, out, OProjSegments(m) / s.layout.tp(), c);
  c.Take(s.tokens * s.hidden * kF32);
  c.Take(AttentionScratch(s));
}

// SwiGluFfn, of `width` columns on this rank.
void TakeFfn(const Shapes& s, int64_t width, int64_t segments, Counter& c) {
  if (width == 0) return;
  c.Take(s.tokens * width * kF32);
  c.Take(s.tokens * width * kF32);
  c.Take(s.tokens * width * s.act);
  TakeQuantised(s, s.tokens, width, segments, c);
}

// DenseFfnBlock.
void TakeDense(const Shapes& s, Counter& c) {
  const int tp = s.layout.tp();
  c.Take(s.tokens * s.hidden * s.act);
  TakeQuantised(s, s.tokens, s.hidden, 1, c);
  TakeFfn(s, s.model.intermediate_size() / tp, DenseDownSegments(s.model) / tp, c);
  c.Take(s.tokens * s.hidden * kF32);
}

// MoeBlock.
void TakeMoe(const Shapes& s, Counter& c) {
  constexpr int64_t kChunkSlots = 4096;
  const v1::ModelSpec& m = s.model;
  const int tp = s.layout.tp(), moe_tp = s.layout.moe_tp();
  const int64_t top_k = m.num_experts_per_tok();
  const int64_t local = std::min(top_k, static_cast<int64_t>(ExpertsOf(s.layout, s.at.ep).size()));
  const int64_t slots = s.all * local;
  const int64_t chunk = std::max(local, std::min(kChunkSlots, slots));
  const int64_t width = CeilDiv(m.moe_intermediate_size(), moe_tp);
  const int64_t columns = CeilDiv(s.hidden, moe_tp);
  const int64_t shared = m.n_shared_experts() * m.moe_intermediate_size();
  c.Take(s.tokens * s.hidden * s.act);
  TakeQuantised(s, s.tokens, s.hidden, 1, c);
  if (shared > 0) TakeFfn(s, shared / tp, SharedDownSegments(m) / tp, c);
  c.Take(s.tokens * m.n_routed_experts() * kF32);
  c.Take(s.all * top_k * 4);
  c.Take(s.all * top_k * kF32);
  if (s.layout.dp() > 1) {
    c.Take(s.all * (RoundUp(s.hidden * s.act, 4) + top_k * 8));
    TakeQuantised(s, s.all, s.hidden, 1, c);
  }
  c.Take(s.all * top_k * 4);
  c.Take(slots * 4);
  c.Take(chunk * width * kF32);
  c.Take(chunk * width * kF32);
  if (moe_tp > 1) {
    c.Take(slots * width * s.act);
    c.Take(slots * m.moe_intermediate_size() * s.act);
  }
  c.Take(chunk * m.moe_intermediate_size() * s.act);
  TakeQuantised(s, chunk, m.moe_intermediate_size(), 1, c);
  c.Take(chunk * columns * kF32);
  c.Take(s.all * columns * kF32);
  if (ReplicaSize(s.layout) > 1) {
    c.Take(s.all * columns * kF32);
    c.Take(s.layout.ep() * s.tokens * s.slice * kF32);
  }
  c.Take(s.tokens * s.slice * kF32);
  if (shared > 0) c.Take(s.tokens * s.hidden * kF32);
}

// HeadBlock.
void TakeHead(const Shapes& s, Counter& c) {
  constexpr int64_t kCandidate = 12, kMaxTop = 20;
  const int64_t seqs = s.runtime.max_num_seqs();
  const int64_t rows = std::min(s.tokens, std::max<int64_t>(seqs, 32));
  const int64_t segments = VocabSegmentsOf(s.layout, s.at.tp).size();
  const int64_t ids = VocabIdsOf(s.model, s.layout, s.at.tp).size();
  const int64_t vocab = s.model.vocab_size();
  const int64_t threads = std::max<int64_t>(1, s.runtime.threads_per_rank());
  const int64_t all_bytes =
      s.layout.tp() * (1 + kMaxTop) * kCandidate + kVocabularySegments * 2 * kF32;
  c.Take(rows * s.hidden * kF32);
  c.Take(rows * s.hidden * s.act);
  c.Take(rows * ids * kF32);
  c.Take(s.tokens * kCandidate);
  c.Take(s.tokens * segments * kF32);
  c.Take(s.tokens * segments * kF32);
  c.Take(s.tokens * kMaxTop * kCandidate);
  c.Take(s.tokens * all_bytes);
  c.Take(threads * 2 * RoundUp(vocab, 64) * kF32);
  if (s.layout.tp() == 1) return;
  const int64_t owned = CeilDiv(seqs, s.layout.tp());
  c.Take(seqs * ids * kF32);
  c.Take(owned * vocab * kF32);
  c.Take(owned * vocab * kF32);
}

}  // namespace

int64_t ActivationBytes(const v1::ModelSpec& model, const v1::Layout& layout,
                        const v1::RuntimeSpec& runtime, int rank) {
  const int tp = layout.tp();
  const Shapes s{
      .model = model,
      .layout = layout,
      .runtime = runtime,
      .at = CoordsOf(layout, rank),
      .act = DTypeBytes(runtime.compute_dtype()),
      .tokens = runtime.max_num_batched_tokens(),
      .all = runtime.max_num_batched_tokens() * layout.dp(),
      .hidden = model.hidden_size(),
      .slice = CeilDiv(model.hidden_size(), tp),
      .positions = RoundUp(runtime.max_model_len(), runtime.kv_block_tokens()),
  };
  Counter c;
  // Rope tables, the residual stream, the slices' exchange.
  c.Take(s.positions * (model.qk_rope_head_dim() / 2) * kF32);
  c.Take(s.positions * (model.qk_rope_head_dim() / 2) * kF32);
  c.Take(s.tokens * s.hidden * kF32);
  if (tp > 1) {
    c.Take(s.tokens * s.hidden * kF32);
    c.Take(tp * s.tokens * s.slice * kF32);
    c.Take(s.tokens * s.slice * kF32);
  }
  // The blocks run one after another in one place.
  const int64_t shared = c.mark();
  if (tp > 1) c.Take(s.tokens * s.hidden * kF32);  // EmbeddingBlock
  c.Reset(shared);
  TakeAttention(s, c);
  c.Reset(shared);
  if (DenseLayers(model) > 0) TakeDense(s, c);
  c.Reset(shared);
  if (MoeLayers(model) > 0) TakeMoe(s, c);
  c.Reset(shared);
  TakeHead(s, c);
  return RoundUp(c.needed(), 4096);
}

}  // namespace whalepod
