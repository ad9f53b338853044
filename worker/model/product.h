// Norms and products as the blocks ask for them: an input, quantised or not as the plan says, times
// weights.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "worker/model/arena.h"
#include "worker/model/dims.h"
#include "worker/weights/weights.h"

namespace whalepod {

// out = rmsnorm(x) * norm, dense rows of `width` in the activation type; x's rows are ldx apart.
absl::Status Normalise(const Dims& dims, Backend* backend, int64_t rows, int64_t width,
                       const float* x, int64_t ldx, const PlainTensor& norm, float eps, void* out,
                       int64_t ldo);

// Space for the FP8 form of one product's input; empty under W8A16.
struct QuantBuffer {
  BF16* values = nullptr;   // [rows, k]
  float* scales = nullptr;  // [rows, groups]
  int64_t k = 0;
  int64_t max_groups = 0;

  QuantBuffer() = default;
  // `segments`: parts K is cut into (QuantizeArgs::segment_k).
  QuantBuffer(const Dims& dims, int64_t rows, int64_t k, int64_t segments, ActivationArena& arena);
};

// The input of one or more products, [rows, k], in both forms where W8A8 needs the second.
struct Operand {
  const void* a = nullptr;
  DType type = DType::kBF16;
  int64_t lda = 0;
  const BF16* quantised = nullptr;  // [rows, k] dense, or null
  const float* scales = nullptr;    // [rows, groups]
  int64_t k = 0;
  int64_t groups = 0;
};

// Wraps x [rows, k] (rows ldx apart) for products with `w` and matrices of w's type, blocks and
// phase. Quantises if the plan says W8A8 and w is FP8.
absl::StatusOr<Operand> MakeOperand(const Dims& dims, Backend* backend, int64_t rows, int64_t k,
                                    const void* x, int64_t ldx, const PackedMatrix& w,
                                    int64_t segment_k, const QuantBuffer& buffer);

// The one of two matrices that share an input which decides about its form: FP8 if one is.
inline const PackedMatrix& Fp8First(const PackedMatrix& a, const PackedMatrix& b) {
  return b.dtype == DType::kF8E4M3 ? b : a;
}

// c[rows, n] = operand * w^T, F32, rows ldc apart. Takes the quantised form iff w is FP8.
absl::Status Multiply(Backend* backend, int64_t rows, const Operand& operand, const PackedMatrix& w,
                      float* c, int64_t ldc, int64_t segment_k = 0);

}  // namespace whalepod
