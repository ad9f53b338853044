#include "worker/model/mla.h"

#include <algorithm>

#include "base/status.h"

namespace whalepod {
namespace {

// The published model makes its two inner norms with the class's default, not rms_norm_eps.
constexpr float kLoraNormEps = 1e-6f;

// Element `index` of a buffer of the activation type.
void* At(void* base, DType type, int64_t index) {
  return static_cast<std::byte*>(base) + index * SizeOf(type);
}

}  // namespace

MlaBlock::MlaBlock(const Dims& d, Backend* backend, ScheduledExchange* exchange,
                   SliceExchange* slices, RopeTables tables, ActivationArena& arena)
    : dims_(d), backend_(backend), exchange_(exchange), slices_(slices), tables_(tables) {
  const int64_t t = d.max_tokens;
  const int64_t act = SizeOf(d.type);
  const int64_t absorbed_rows = std::min(t, kAbsorbedRows);
  x_ = arena.Take(t * d.hidden * act);
  x_quant_ = QuantBuffer(d, t, d.hidden, 1, arena);
  if (d.q_lora > 0) {
    q_a_ = arena.Take<float>(t * d.q_lora);
    c_q_ = arena.Take(t * d.q_lora * act);
    c_q_quant_ = QuantBuffer(d, t, d.q_lora, 1, arena);
  }
  q_raw_ = arena.Take<float>(t * d.heads * d.qk());
  q_ = arena.Take(t * d.heads * d.qk() * act);
  kv_a_ = arena.Take<float>(t * d.latent());
  if (d.tp > 1) {
    made_ = arena.Take<float>(t * (d.q_a.size() + d.kv_a.size()));
    gathered_ = arena.Take<float>(t * (d.q_lora + d.latent()));
  }
  latent_ = arena.Take(t * d.latent() * act);
  absorbed_ = arena.Take(absorbed_rows * d.heads * d.latent() * act);
  z_ = arena.Take(absorbed_rows * d.heads * d.lora * act);
  out_ = arena.Take(t * d.heads * d.v * act);
  out_quant_ = QuantBuffer(d, t, d.heads * d.v, d.heads * d.v / d.o_segment, arena);
  partial_ = arena.Take<float>(t * d.hidden);
  scratch_bytes_ =
      std::max(backend->AttentionExpandedScratch(d.max_positions, t, d.nope, d.v, d.type),
               backend->AttentionAbsorbedScratch(d.max_positions));
  scratch_ = arena.Take(scratch_bytes_);
}

absl::Status MlaBlock::Run(int64_t layer, const AttentionWeights& w, const LatentCache& cache,
                           const Batch& batch, float* h) {
  const Dims& d = dims_;
  const int64_t t = batch.tokens;
  // x = rmsnorm(h)                                                     [t, hidden]
  RETURN_IF_ERROR(
      Normalise(d, backend_, t, d.hidden, h, d.hidden, w.input_norm, d.eps, x_, d.hidden));
  // Where there are more ranks than panels, some make no output of q_a, of kv_a, or of both.
  const PackedMatrix& first = d.q_lora > 0 ? w.q_a : w.q;
  const PackedMatrix& any = first.n == 0 ? w.kv_a : w.kv_a.n == 0 ? first : Fp8First(first, w.kv_a);
  Operand x{.a = x_, .type = d.type, .lda = d.hidden, .k = d.hidden};
  if (any.n > 0) {
    ASSIGN_OR_RETURN(x, MakeOperand(d, backend_, t, d.hidden, x_, d.hidden, any, 0, x_quant_));
  }
  RETURN_IF_ERROR(Project(layer, w, x, t));
  RETURN_IF_ERROR(Queries(w, batch, x));
  RETURN_IF_ERROR(Latents(w, cache, batch));
  RETURN_IF_ERROR(AttendPrompt(w, cache, batch));
  for (int64_t row = batch.prompt_rows; row < t; row += kAbsorbedRows) {
    RETURN_IF_ERROR(AttendGenerated(w, cache, batch, row, std::min(kAbsorbedRows, t - row)));
  }
  // partial = W_o out, this rank's heads                               [t, hidden]
  const int64_t width = d.heads * d.v;
  ASSIGN_OR_RETURN(const Operand out,
                   MakeOperand(d, backend_, t, width, out_, width, w.o, d.o_segment, out_quant_));
  RETURN_IF_ERROR(Multiply(backend_, t, out, w.o, partial_, d.hidden, d.o_segment));
  return slices_->AddPartials(v1::COLLECTIVE_TAG_ATTN_PARTIAL, v1::COLLECTIVE_TAG_ATTN_GATHER,
                              layer, t, partial_, h);
}

// q_a = W_qa x [t, q_lora] and kv_a = W_kva x [t, lora + rope]: each TP rank makes some of the
// outputs, all ranks get all of them.
absl::Status MlaBlock::Project(int64_t layer, const AttentionWeights& w, const Operand& x,
                               int64_t t) {
  const Dims& d = dims_;
  if (d.tp == 1) {
    if (d.q_lora > 0) RETURN_IF_ERROR(Multiply(backend_, t, x, w.q_a, q_a_, d.q_lora));
    return Multiply(backend_, t, x, w.kv_a, kv_a_, d.latent());
  }
  const int64_t width = d.q_a.size() + d.kv_a.size();
  if (d.q_a.size() > 0) RETURN_IF_ERROR(Multiply(backend_, t, x, w.q_a, made_, width));
  if (d.kv_a.size() > 0) {
    RETURN_IF_ERROR(Multiply(backend_, t, x, w.kv_a, made_ + d.q_a.size(), width));
  }
  std::vector<int64_t> bytes(d.tp);
  for (int r = 0; r < d.tp; ++r) {
    bytes[r] = t * (d.QaOf(r).size() + d.KvaOf(r).size()) * static_cast<int64_t>(sizeof(float));
  }
  RETURN_IF_ERROR(exchange_->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_ATTN_INPUT, layer,
                                       FloatBytes(made_, t * width), bytes,
                                       MutableFloatBytes(gathered_, t * (d.q_lora + d.latent()))));
  const float* from = gathered_;
  for (int r = 0; r < d.tp; ++r) {
    const Range q = d.QaOf(r), kv = d.KvaOf(r);
    const int64_t row = q.size() + kv.size();
    CopyMatrix(t, q.size(), from, row, q_a_ + q.begin, d.q_lora);
    CopyMatrix(t, kv.size(), from + q.size(), row, kv_a_ + kv.begin, d.latent());
    from += t * row;
  }
  return absl::OkStatus();
}

absl::Status MlaBlock::Queries(const AttentionWeights& w, const Batch& batch, const Operand& x) {
  const Dims& d = dims_;
  const int64_t t = batch.tokens;
  const int64_t width = d.heads * d.qk();
  if (d.q_lora == 0) {
    // q = W_q x                                                        [t, heads, nope + rope]
    RETURN_IF_ERROR(Multiply(backend_, t, x, w.q, q_raw_, width));
  } else {
    // c_q = rmsnorm(q_a);  q = W_qb c_q                                [t, q_lora]
    RETURN_IF_ERROR(Normalise(d, backend_, t, d.q_lora, q_a_, d.q_lora, w.q_a_norm, kLoraNormEps,
                              c_q_, d.q_lora));
    ASSIGN_OR_RETURN(const Operand c_q,
                     MakeOperand(d, backend_, t, d.q_lora, c_q_, d.q_lora, w.q_b, 0, c_q_quant_));
    RETURN_IF_ERROR(Multiply(backend_, t, c_q, w.q_b, q_raw_, width));
  }
  // The last `rope` elements of each head are rotated; then all are rounded.
  RETURN_IF_ERROR(Rotate(batch, d.heads, q_raw_ + d.nope, width, d.qk()));
  return backend_->Cast({.rows = t,
                         .cols = width,
                         .x = q_raw_,
                         .ldx = width,
                         .out = q_,
                         .out_type = d.type,
                         .ldo = width});
}

absl::Status MlaBlock::Latents(const AttentionWeights& w, const LatentCache& cache,
                               const Batch& batch) {
  const Dims& d = dims_;
  const int64_t t = batch.tokens;
  // [c, k_r] = kv_a; cached: [rmsnorm(c), rotated k_r]                 [t, lora + rope]
  RETURN_IF_ERROR(Normalise(d, backend_, t, d.lora, kv_a_, d.latent(), w.kv_a_norm, kLoraNormEps,
                            latent_, d.latent()));
  RETURN_IF_ERROR(Rotate(batch, 1, kv_a_ + d.lora, d.latent(), d.rope));
  RETURN_IF_ERROR(backend_->Cast({.rows = t,
                                  .cols = d.rope,
                                  .x = kv_a_ + d.lora,
                                  .ldx = d.latent(),
                                  .out = At(latent_, d.type, d.lora),
                                  .out_type = d.type,
                                  .ldo = d.latent()}));
  return backend_->CacheWrite({.tokens = t,
                               .cache = cache,
                               .slots = batch.cache_slots.data(),
                               .rows = latent_,
                               .ld = d.latent()});
}

absl::Status MlaBlock::AttendPrompt(const AttentionWeights& w, const LatentCache& cache,
                                    const Batch& batch) {
  const Dims& d = dims_;
  const int64_t q_width = d.heads * d.qk();
  const int64_t out_width = d.heads * d.v;
  for (const PromptSpan& span : batch.prompt_spans) {
    // per head: k = [W_uk c, k_r], v = W_uv c; out = softmax(q k) v    [rows, heads, v]
    RETURN_IF_ERROR(backend_->AttentionExpanded({.tokens = span.rows,
                                                 .pos0 = span.pos0,
                                                 .heads = d.heads,
                                                 .nope = d.nope,
                                                 .rope = d.rope,
                                                 .v = d.v,
                                                 .lora = d.lora,
                                                 .q = At(q_, d.type, span.row0 * q_width),
                                                 .ldq = q_width,
                                                 .cache = cache,
                                                 .block_table = span.block_table,
                                                 .k_up = w.k_up,
                                                 .v_up = w.v_up,
                                                 .scale = d.attention_scale,
                                                 .out = At(out_, d.type, span.row0 * out_width),
                                                 .ldo = out_width,
                                                 .scratch = scratch_,
                                                 .scratch_bytes = scratch_bytes_}));
  }
  return absl::OkStatus();
}

absl::Status MlaBlock::AttendGenerated(const AttentionWeights& w, const LatentCache& cache,
                                       const Batch& batch, int64_t row0, int64_t rows) {
  const Dims& d = dims_;
  const int64_t q_width = d.heads * d.qk();
  const int64_t absorbed_width = d.heads * d.latent();
  const int64_t z_width = d.heads * d.lora;
  const int64_t out_width = d.heads * d.v;
  // absorbed = [W_uk^T q_nope, q_r], per head                          [rows, heads, lora + rope]
  RETURN_IF_ERROR(backend_->MatMul({.m = rows,
                                    .a = At(q_, d.type, row0 * q_width),
                                    .a_type = d.type,
                                    .lda = q_width,
                                    .a_batch_stride = d.qk(),
                                    .w = w.k_upT,
                                    .c_batch_stride = d.latent(),
                                    .c = absorbed_,
                                    .c_type = d.type,
                                    .ldc = absorbed_width}));
  RETURN_IF_ERROR(backend_->Cast({.rows = rows * d.heads,
                                  .cols = d.rope,
                                  .x = q_raw_ + row0 * q_width + d.nope,
                                  .ldx = d.qk(),
                                  .out = At(absorbed_, d.type, d.lora),
                                  .out_type = d.type,
                                  .ldo = d.latent()}));
  // z = softmax(absorbed [c, k_r]) c                                   [rows, heads, lora]
  RETURN_IF_ERROR(backend_->AttentionAbsorbed({.tokens = rows,
                                               .heads = d.heads,
                                               .lora = d.lora,
                                               .rope = d.rope,
                                               .q = absorbed_,
                                               .ldq = absorbed_width,
                                               .positions = batch.positions.data() + row0,
                                               .block_tables = batch.block_tables.data() + row0,
                                               .cache = cache,
                                               .scale = d.attention_scale,
                                               .out = z_,
                                               .ldo = z_width,
                                               .scratch = scratch_,
                                               .scratch_bytes = scratch_bytes_}));
  // out = W_uv z, per head                                             [rows, heads, v]
  return backend_->MatMul({.m = rows,
                           .a = z_,
                           .a_type = d.type,
                           .lda = z_width,
                           .a_batch_stride = d.lora,
                           .w = w.v_up,
                           .c_batch_stride = d.v,
                           .c = At(out_, d.type, row0 * out_width),
                           .c_type = d.type,
                           .ldc = out_width});
}

absl::Status MlaBlock::Rotate(const Batch& batch, int64_t heads, float* x, int64_t token_stride,
                              int64_t head_stride) {
  return backend_->Rope({.tokens = batch.tokens,
                         .heads = heads,
                         .dim = dims_.rope,
                         .positions = batch.positions.data(),
                         .cos = tables_.cos,
                         .sin = tables_.sin,
                         .x = x,
                         .type = DType::kF32,
                         .token_stride = token_stride,
                         .head_stride = head_stride});
}

}  // namespace whalepod
