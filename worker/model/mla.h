// Multi-head latent attention of one layer.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/model/arena.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/exchange.h"
#include "worker/model/layer_weights.h"
#include "worker/model/product.h"

namespace whalepod {

// Rope tables, [max_positions, rope / 2] each; filled once.
struct RopeTables {
  const float* cos = nullptr;
  const float* sin = nullptr;
};

// h += o_proj(attention(rmsnorm(h))). Prompt rows take the expanded form, generated rows the
// absorbed one. One object serves all layers: it owns the buffers, not the weights.
class MlaBlock {
 public:
  MlaBlock(const Dims& dims, Backend* backend, ScheduledExchange* exchange, SliceExchange* slices,
           RopeTables tables, ActivationArena& arena);

  // h [tokens, hidden].
  absl::Status Run(int64_t layer, const AttentionWeights& w, const LatentCache& cache,
                   const Batch& batch, float* h);

  // Generated rows whose absorbed queries are held at once.
  static constexpr int64_t kAbsorbedRows = 256;

 private:
  absl::Status Project(int64_t layer, const AttentionWeights& w, const Operand& x, int64_t tokens);
  absl::Status Queries(const AttentionWeights& w, const Batch& batch, const Operand& x);
  absl::Status Latents(const AttentionWeights& w, const LatentCache& cache, const Batch& batch);
  absl::Status AttendPrompt(const AttentionWeights& w, const LatentCache& cache,
                            const Batch& batch);
  absl::Status AttendGenerated(const AttentionWeights& w, const LatentCache& cache,
                               const Batch& batch, int64_t row0, int64_t rows);
  absl::Status Rotate(const Batch& batch, int64_t heads, float* x, int64_t token_stride,
                      int64_t head_stride);

  const Dims& dims_;
  Backend* backend_;
  ScheduledExchange* exchange_;
  SliceExchange* slices_;
  RopeTables tables_;

  void* x_ = nullptr;             // [T, hidden] activation type
  QuantBuffer x_quant_;           // [T, hidden]
  float* q_a_ = nullptr;          // [T, q_lora]
  void* c_q_ = nullptr;           // [T, q_lora] activation type
  QuantBuffer c_q_quant_;         // [T, q_lora]
  float* q_raw_ = nullptr;        // [T, heads, nope + rope]
  void* q_ = nullptr;             // [T, heads, nope + rope] activation type, rotated
  float* kv_a_ = nullptr;         // [T, lora + rope]
  float* made_ = nullptr;         // [T, q_a + kv_a]: this rank's outputs of q_a and kv_a
  float* gathered_ = nullptr;     // by TP rank [T, its q_a + kv_a]
  void* latent_ = nullptr;        // [T, lora + rope] cache type
  void* absorbed_ = nullptr;      // [kAbsorbedRows, heads, lora + rope] activation type
  void* z_ = nullptr;             // [kAbsorbedRows, heads, lora] activation type
  void* out_ = nullptr;           // [T, heads, v] activation type
  QuantBuffer out_quant_;         // [T, heads * v]
  float* partial_ = nullptr;      // [T, hidden]
  std::byte* scratch_ = nullptr;  // of the attention ops
  int64_t scratch_bytes_ = 0;
};

}  // namespace whalepod
