#include "worker/model/product.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace whalepod {

absl::Status Normalise(const Dims& dims, Backend* backend, int64_t rows, int64_t width,
                       const float* x, int64_t ldx, const PlainTensor& norm, float eps, void* out,
                       int64_t ldo) {
  return backend->RmsNorm({.tokens = rows,
                           .width = width,
                           .x = x,
                           .ldx = ldx,
                           .weight = norm.data,
                           .weight_type = norm.dtype,
                           .eps = eps,
                           .out = out,
                           .out_type = dims.type,
                           .ldo = ldo});
}

QuantBuffer::QuantBuffer(const Dims& dims, int64_t rows, int64_t k, int64_t segments,
                         ActivationArena& arena)
    : k(k) {
  if (!dims.w8a8) return;
  // A block may be cut by the slice's two ends and by each segment border.
  max_groups = k / dims.fp8_block_k + 1 + segments;
  values = arena.Take<BF16>(rows * k);
  scales = arena.Take<float>(rows * max_groups);
}

absl::StatusOr<Operand> MakeOperand(const Dims& dims, Backend* backend, int64_t rows, int64_t k,
                                    const void* x, int64_t ldx, const PackedMatrix& w,
                                    int64_t segment_k, const QuantBuffer& buffer) {
  Operand operand{.a = x, .type = dims.type, .lda = ldx, .k = k};
  if (!dims.w8a8 || w.dtype != DType::kF8E4M3) return operand;
  operand.groups = QuantizeGroups(k, w.block_k, w.phase_k, segment_k);
  CHECK_EQ(k, buffer.k);
  CHECK_LE(operand.groups, buffer.max_groups);
  RETURN_IF_ERROR(backend->Quantize({.m = rows,
                                     .k = k,
                                     .x = x,
                                     .x_type = dims.type,
                                     .ldx = ldx,
                                     .block_k = w.block_k,
                                     .phase_k = w.phase_k,
                                     .segment_k = segment_k,
                                     .out = buffer.values,
                                     .ldo = k,
                                     .scales = buffer.scales,
                                     .lds = operand.groups}));
  operand.quantised = buffer.values;
  operand.scales = buffer.scales;
  return operand;
}

absl::Status Multiply(Backend* backend, int64_t rows, const Operand& operand, const PackedMatrix& w,
                      float* c, int64_t ldc, int64_t segment_k) {
  const bool quantised = operand.quantised != nullptr && w.dtype == DType::kF8E4M3;
  return backend->MatMul({.m = rows,
                          .a = quantised ? operand.quantised : operand.a,
                          .a_type = quantised ? DType::kBF16 : operand.type,
                          .lda = quantised ? operand.k : operand.lda,
                          .w = {&w, 1},
                          .c = c,
                          .c_type = DType::kF32,
                          .ldc = ldc,
                          .segment_k = segment_k,
                          .a_scales = quantised ? operand.scales : nullptr,
                          .lda_scales = operand.groups});
}

}  // namespace whalepod
