// What one decode step must read: the bound of batch-1 decode.
#pragma once

#include <cstdint>

#include "coordinator/checkpoint/checkpoint.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Bytes that one generated token touches, by where they lie. Weights as they are stored: all but
// the experts, top_k experts a MoE layer, of the embedding one row (a tied head reads it whole).
struct DecodeBytes {
  int64_t fp8 = 0;
  int64_t half = 0;  // BF16 and F16, without the embedding's row
  int64_t f32 = 0;   // scales of FP8 blocks, the router's bias, F32 weights
  int64_t embedding_row = 0;
  int64_t kv_per_position = 0;  // of the latent cache, all layers

  // With `context` positions visible.
  int64_t Total(double context) const {
    return fp8 + half + f32 + embedding_row +
           static_cast<int64_t>(static_cast<double>(kv_per_position) * context);
  }
};

// `checkpoint` gives the stored types; null: the published ones (FP8 where the model has blocks,
// else BF16; the router's bias F32). `cache_type`: of the KV cache, BF16 or F32.
DecodeBytes BytesPerToken(const v1::ModelSpec& model, const Checkpoint* checkpoint,
                          v1::DType cache_type);

}  // namespace whalepod
