// The SwiGLU FFN: dense layers and the shared expert.
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

// partial = W_down (silu(W_gate x) * (W_up x)), over this rank's columns of the width.
class SwiGluFfn {
 public:
  // `width`: this rank's columns; `segment`: columns of a summation segment.
  SwiGluFfn(const Dims& dims, Backend* backend, int64_t width, int64_t segment,
            ActivationArena& arena);

  // x [rows, hidden], made for w.gate and w.up; partial [rows, hidden] F32: to be summed over tp.
  absl::Status Run(const FfnWeights& w, int64_t rows, const Operand& x, float* partial);

 private:
  const Dims& dims_;
  Backend* backend_;
  int64_t width_, segment_;
  float* gate_ = nullptr;  // [T, width]
  float* up_ = nullptr;    // [T, width]
  void* act_ = nullptr;    // [T, width] activation type
  QuantBuffer act_quant_;  // [T, width]
};

// h += ffn(rmsnorm(h)) of a dense layer.
class DenseFfnBlock {
 public:
  DenseFfnBlock(const Dims& dims, Backend* backend, SliceExchange* slices, ActivationArena& arena);

  // h [rows, hidden].
  absl::Status Run(int64_t layer, const PlainTensor& norm, const FfnWeights& w, int64_t rows,
                   float* h);

 private:
  const Dims& dims_;
  Backend* backend_;
  SliceExchange* slices_;
  void* x_ = nullptr;    // [T, hidden] activation type
  QuantBuffer x_quant_;  // [T, hidden]
  SwiGluFfn ffn_;
  float* partial_ = nullptr;  // [T, hidden]
};

}  // namespace whalepod
