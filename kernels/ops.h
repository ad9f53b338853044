// Every operation the forward pass is written in: one Args struct and one function per op.
//
// Calling an op validates its Args (shapes, types, pointers; INVALID_ARGUMENT names the op, the
// dimension and both values), returns at once on empty work, and dispatches to the backend. Args
// never own memory; all buffers live at least until the op's results are awaited (CPU: until it
// returns). Strides (ld*) are in elements. "Activation type" is BF16 or F32 and the same throughout
// one forward. Every op states its order of arithmetic in docs/numbers.md; a result depends on its
// own row's inputs only, never on what else is in the batch, the number of threads or the
// instruction path.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/dtype.h"
#include "kernels/packing.h"

namespace whalepod {

// out[t] = table[ids[t] - vocab0] for ids in [vocab0, vocab0 + rows); other rows are left alone.
struct EmbedArgs {
  int64_t tokens = 0;
  const int32_t* ids = nullptr;  // [tokens]
  const void* table = nullptr;   // [rows, hidden], row-major
  DType table_type = DType::kBF16;
  int64_t vocab0 = 0;
  int64_t rows = 0;
  int64_t hidden = 0;
  float* out = nullptr;  // [tokens, hidden]
};

// out = x / sqrt(mean(x^2) + eps) * weight, rounded once to the output type.
struct RmsNormArgs {
  int64_t tokens = 0;
  int64_t width = 0;
  const float* x = nullptr;  // [tokens, width], rows ldx apart
  int64_t ldx = 0;
  const void* weight = nullptr;  // [width]
  DType weight_type = DType::kBF16;
  float eps = 1e-6f;
  void* out = nullptr;  // [tokens, width], rows ldo apart
  DType out_type = DType::kBF16;
  int64_t ldo = 0;
};

// c[b] = a[b] * w[b]^T for each batch entry. K is cut at multiples of segment_k and the segments'
// sums are added by the tree; 0: one segment.
struct MatMulArgs {
  int64_t m = 0;
  const void* a = nullptr;  // [m, k] per batch entry
  DType a_type = DType::kBF16;
  int64_t lda = 0;
  int64_t a_batch_stride = 0;
  absl::Span<const PackedMatrix> w;  // one per batch entry, all of one shape
  int64_t c_batch_stride = 0;
  void* c = nullptr;  // [m, n] per batch entry, F32 or BF16
  DType c_type = DType::kF32;
  int64_t ldc = 0;
  int64_t segment_k = 0;
  // W8A8: `a` holds E4M3 values (as BF16, exact) made by QuantizeArgs with the same groups;
  // a_scales [m, groups]. Null: W8A16. Batch must be 1.
  const float* a_scales = nullptr;
  int64_t lda_scales = 0;
};

// Products of the rows chosen for each expert. Slots are grouped by expert: expert g owns slots
// [offsets[g], offsets[g+1]). c[s] = a[row_index[s]] * w[g]^T.
struct GroupedMatMulArgs {
  absl::Span<const PackedMatrix> w;    // one per local expert, all of one shape
  const int32_t* offsets = nullptr;    // [experts + 1]
  const int32_t* row_index = nullptr;  // [slots]; null: identity
  const void* a = nullptr;             // [rows, k]
  DType a_type = DType::kBF16;
  int64_t lda = 0;
  void* c = nullptr;  // [slots, n], F32 or BF16
  DType c_type = DType::kF32;
  int64_t ldc = 0;
  const float* a_scales = nullptr;  // W8A8: [rows, groups], indexed as `a`
  int64_t lda_scales = 0;
};

// FP8 activations, per row and group of columns. Groups end where (column + phase_k) is a multiple
// of block_k and where column is a multiple of segment_k (0: no segments). Per group: amax clamped
// to >= 1e-4, scale = amax / 448, out = E4M3(x / scale) stored as BF16.
struct QuantizeArgs {
  int64_t m = 0;
  int64_t k = 0;
  const void* x = nullptr;  // [m, k], F32 or BF16
  DType x_type = DType::kBF16;
  int64_t ldx = 0;
  int32_t block_k = 128;
  int32_t phase_k = 0;
  int64_t segment_k = 0;
  BF16* out = nullptr;  // [m, k]
  int64_t ldo = 0;
  float* scales = nullptr;  // [m, groups]
  int64_t lds = 0;
};
// Number of groups QuantizeArgs and W8A8 products cut K into.
int64_t QuantizeGroups(int64_t k, int32_t block_k, int32_t phase_k, int64_t segment_k);

// Rotates interleaved pairs (x0,x1),(x2,x3).. in place by the row's position; computed in F32,
// rounded once.
struct RopeArgs {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t dim = 0;                     // even
  const int32_t* positions = nullptr;  // [tokens]
  const float* cos = nullptr;          // [max_position, dim / 2]
  const float* sin = nullptr;
  void* x = nullptr;  // element (t, h, i) at t * token_stride + h * head_stride + i
  DType type = DType::kF32;
  int64_t token_stride = 0;
  int64_t head_stride = 0;
};

// The paged latent cache of one layer: block b, token j of it, element i at
// base + ((b * block_stride) + j * width + i) * SizeOf(type). width = kv_lora + rope: the latent
// after its norm, then the rotated key.
struct LatentCache {
  void* base = nullptr;
  DType type = DType::kBF16;
  int64_t block_tokens = 64;
  int64_t width = 0;
  int64_t block_stride = 0;  // elements between blocks
  int64_t blocks = 0;
};

// Writes one latent row per token at its slot (block * block_tokens + offset); slot < 0 skips.
struct CacheWriteArgs {
  int64_t tokens = 0;
  LatentCache cache;
  const int64_t* slots = nullptr;  // [tokens]
  const void* rows = nullptr;      // [tokens, width] of cache.type
  int64_t ld = 0;
};

// Prompt tokens: keys and values are expanded from the cache, per head; causal. One sequence a
// call: query t is at position pos0 + t and sees positions 0..pos0 + t, all already in the cache.
struct AttentionExpandedArgs {
  int64_t tokens = 0;
  int64_t pos0 = 0;
  int64_t heads = 0;
  int64_t nope = 0, rope = 0, v = 0, lora = 0;
  const void* q = nullptr;  // [tokens, heads, nope + rope], rotated; activation type = cache.type
  int64_t ldq = 0;          // elements between tokens
  LatentCache cache;
  const int32_t* block_table = nullptr;  // [ceil((pos0 + tokens) / block_tokens)]
  absl::Span<const PackedMatrix> k_up;   // [heads], each [nope, lora]
  absl::Span<const PackedMatrix> v_up;   // [heads], each [v, lora]
  float scale = 0;
  void* out = nullptr;  // [tokens, heads, v], activation type
  int64_t ldo = 0;
  void* scratch = nullptr;  // AttentionExpandedScratch() bytes
  int64_t scratch_bytes = 0;
};

// Generated tokens: multi-query attention over the latents themselves. Rows may belong to any
// sequences.
struct AttentionAbsorbedArgs {
  int64_t tokens = 0;
  int64_t heads = 0;
  int64_t lora = 0, rope = 0;
  const void* q = nullptr;  // [tokens, heads, lora + rope]: absorbed query, then rotated query
  int64_t ldq = 0;
  const int32_t* positions = nullptr;            // [tokens]: sees 0..position
  const int32_t* const* block_tables = nullptr;  // [tokens]
  LatentCache cache;
  float scale = 0;
  void* out = nullptr;  // [tokens, heads, lora], activation type
  int64_t ldo = 0;
  void* scratch = nullptr;  // AttentionAbsorbedScratch() bytes
  int64_t scratch_bytes = 0;
};

// out = silu(gate) * up, computed in F32, rounded once.
struct SwiGluArgs {
  int64_t rows = 0;
  int64_t width = 0;
  const float* gate = nullptr;
  const float* up = nullptr;
  int64_t ld = 0;  // of gate and up
  void* out = nullptr;
  DType out_type = DType::kBF16;
  int64_t ldo = 0;
};

// DeepSeek's "noaux_tc" choice. scores = sigmoid(logits); choice by scores + bias: the topk_group
// groups with the largest sum of their two best, then the top_k best within them; ties to the
// lowest index. weights = the chosen scores (without bias), normalised if asked (sum + 1e-20),
// times scale. A token's experts come out in ascending order of id. NaN logits: ids[0] = -1.
struct RouteArgs {
  int64_t tokens = 0;
  int64_t experts = 0;
  int64_t groups = 1;
  int64_t topk_groups = 1;
  int64_t top_k = 0;
  bool normalise = true;
  float scale = 1;
  const float* logits = nullptr;  // [tokens, experts]
  const float* bias = nullptr;    // [experts] or null
  int32_t* ids = nullptr;         // [tokens, top_k]
  float* weights = nullptr;       // [tokens, top_k]
};

// out[t] = sum over the token's local experts of weight * rows[slot], by the tree over expert id
// (an absent expert adds nothing), plus +0. No expert: zeros.
struct ExpertCombineArgs {
  int64_t tokens = 0;
  int64_t top_k = 0;
  int64_t experts = 0;  // of the layer: the tree's leaves
  int64_t width = 0;
  const int32_t* ids = nullptr;    // [tokens, top_k], ascending
  const float* weights = nullptr;  // [tokens, top_k]
  const int32_t* slots = nullptr;  // [tokens, top_k]: row in `rows`, -1: not on this rank
  const float* rows = nullptr;     // [slots, width]
  int64_t ld = 0;
  float* out = nullptr;  // [tokens, width]
  int64_t ldo = 0;
};

// out[i] (+)= tree sum of partials[0..n-1][i]. Matrix form, because slices are strided.
struct TreeAddArgs {
  int64_t rows = 0;
  int64_t cols = 0;
  absl::Span<const float* const> partials;  // n >= 1, each [rows, cols]
  int64_t ldp = 0;
  float* out = nullptr;
  int64_t ldo = 0;
  bool accumulate = false;  // out = out + sum
};

// Rounds F32 to BF16, or copies F32.
struct CastArgs {
  int64_t rows = 0;
  int64_t cols = 0;
  const float* x = nullptr;
  int64_t ldx = 0;
  void* out = nullptr;
  DType out_type = DType::kBF16;
  int64_t ldo = 0;
};

constexpr int kVocabSegments = 16;

// One row's candidates from one rank's slice of the vocabulary.
struct SampleCandidate {
  float score;  // logit / temperature + Gumbel noise; greedy: the logit
  float logit;
  int32_t id;  // of the whole vocabulary; -1: none in this slice
};

// Per row: the best candidate of this slice (ties to the lowest id), and (max, sum exp(l - max)) of
// each whole vocabulary segment in it. The vocabulary is cut in 16 segments of
// VocabSegment(vocab) ids; a slice is a range of whole segments.
struct SampleArgs {
  int64_t rows = 0;
  int64_t vocab = 0;
  int64_t segment0 = 0;  // this slice: segments [segment0, segment0 + segments)
  int64_t segments = 0;
  const float* logits = nullptr;  // [rows, ids of the slice]
  int64_t ld = 0;
  const float* temperature = nullptr;  // [rows]; 0: greedy
  const uint64_t* seed = nullptr;      // [rows]
  const uint32_t* position = nullptr;  // [rows]: index of the generated token
  const uint32_t* choice = nullptr;    // [rows]
  // [rows], may be null: ids that are not sampled but given; best is this id if the slice has it.
  // Negative: none.
  const int32_t* target = nullptr;
  SampleCandidate* best = nullptr;  // [rows]
  float* segment_max = nullptr;     // [rows, segments]; NaN if any logit is NaN
  float* segment_sum = nullptr;     // [rows, segments]
  // The top_k largest logits of the slice, descending, ties to the lowest id; id -1 past the end.
  int64_t top_k = 0;
  SampleCandidate* top = nullptr;  // [rows, top_k]
};
// Ids in a segment: ceil(vocab / 16) rounded up to 32. The last ones may be short or empty.
constexpr int64_t VocabSegment(int64_t vocab) {
  return ((vocab + kVocabSegments - 1) / kVocabSegments + 31) / 32 * 32;
}
// How often an id stands in the tokens that penalties look at.
struct TokenCount {
  int32_t id = 0;
  uint32_t generated = 0;  // times among the generated tokens; 0: only in the prompt
};
struct LogitBias {
  int32_t id = 0;
  float bias = 0;
};

// What narrows the choice of one row, in the order in which it is applied: penalties, bias, banned
// ids, temperature, top-k, top-p, min-p (docs/sampling.md). The defaults narrow nothing.
struct SampleFilter {
  const float* logits = nullptr;      // [vocab]: a whole row
  absl::Span<const TokenCount> seen;  // each id once
  float repetition_penalty = 1;       // of seen ids: positive logits / r, others * r
  float presence_penalty = 0;         // taken from generated ids
  float frequency_penalty = 0;        // times `generated`, likewise
  absl::Span<const LogitBias> bias;
  absl::Span<const int32_t> banned;
  float temperature = 1;  // 0: greedy, and then nothing below counts
  int64_t top_k = 0;      // 0: all
  float top_p = 1;
  float min_p = 0;
  uint64_t seed = 0;
  uint32_t position = 0;  // index of the generated token
  uint32_t choice = 0;
};

// The best candidate among the ids of each row that its filter keeps; its noise is that of Sample,
// so a filter that keeps the winner of the whole row does not change it. `logit` is the row's own,
// before penalties. Id -1 if a logit is NaN or +inf or none is left. Kept ids are a prefix of the
// order (adjusted logit descending, id ascending).
struct SampleFilteredArgs {
  absl::Span<const SampleFilter> rows;
  int64_t vocab = 0;
  SampleCandidate* best = nullptr;  // [rows]
  // [rows, ceil(vocab / 32)], may be null: bit id % 32 of word id / 32 is set for each kept id. All
  // clear for greedy rows and where best is none.
  uint32_t* kept = nullptr;
  float* scratch = nullptr;  // SampleFilteredScratch(vocab, threads) floats
};
// Two rows a thread, in whole cache lines.
constexpr int64_t SampleFilteredScratch(int64_t vocab, int64_t threads) {
  return threads * 2 * ((vocab + 63) / 64 * 64);
}

// log(sum exp) over all 16 segments by the tree over segments, from the parts in segment order.
float LogSumExp(absl::Span<const float> segment_max, absl::Span<const float> segment_sum);

// An implementation of all ops on one device. Ops of one backend are called from one thread.
class Backend {
 public:
  virtual ~Backend() = default;

  absl::Status Embed(const EmbedArgs& args);
  absl::Status RmsNorm(const RmsNormArgs& args);
  absl::Status MatMul(const MatMulArgs& args);
  absl::Status GroupedMatMul(const GroupedMatMulArgs& args);
  absl::Status Quantize(const QuantizeArgs& args);
  absl::Status Rope(const RopeArgs& args);
  absl::Status CacheWrite(const CacheWriteArgs& args);
  absl::Status AttentionExpanded(const AttentionExpandedArgs& args);
  absl::Status AttentionAbsorbed(const AttentionAbsorbedArgs& args);
  absl::Status SwiGlu(const SwiGluArgs& args);
  absl::Status Route(const RouteArgs& args);
  absl::Status ExpertCombine(const ExpertCombineArgs& args);
  absl::Status TreeAdd(const TreeAddArgs& args);
  absl::Status Cast(const CastArgs& args);
  absl::Status Sample(const SampleArgs& args);
  absl::Status SampleFiltered(const SampleFilteredArgs& args);

  // "avx512", "avx2", "portable": part of a worker's hello; an epoch has one.
  virtual std::string InstructionPath() const = 0;
  virtual int Threads() const = 0;
  // Bytes the attention ops need as scratch, for contexts up to `max_context` tokens.
  virtual int64_t AttentionExpandedScratch(int64_t max_context, int64_t max_tokens, int64_t nope,
                                           int64_t v, DType type) const = 0;
  virtual int64_t AttentionAbsorbedScratch(int64_t max_context) const = 0;

 protected:
  // Called with valid, non-empty Args.
  virtual absl::Status DoEmbed(const EmbedArgs& args) = 0;
  virtual absl::Status DoRmsNorm(const RmsNormArgs& args) = 0;
  virtual absl::Status DoMatMul(const MatMulArgs& args) = 0;
  virtual absl::Status DoGroupedMatMul(const GroupedMatMulArgs& args) = 0;
  virtual absl::Status DoQuantize(const QuantizeArgs& args) = 0;
  virtual absl::Status DoRope(const RopeArgs& args) = 0;
  virtual absl::Status DoCacheWrite(const CacheWriteArgs& args) = 0;
  virtual absl::Status DoAttentionExpanded(const AttentionExpandedArgs& args) = 0;
  virtual absl::Status DoAttentionAbsorbed(const AttentionAbsorbedArgs& args) = 0;
  virtual absl::Status DoSwiGlu(const SwiGluArgs& args) = 0;
  virtual absl::Status DoRoute(const RouteArgs& args) = 0;
  virtual absl::Status DoExpertCombine(const ExpertCombineArgs& args) = 0;
  virtual absl::Status DoTreeAdd(const TreeAddArgs& args) = 0;
  virtual absl::Status DoCast(const CastArgs& args) = 0;
  virtual absl::Status DoSample(const SampleArgs& args) = 0;
  virtual absl::Status DoSampleFiltered(const SampleFilteredArgs& args) = 0;
};

}  // namespace whalepod
