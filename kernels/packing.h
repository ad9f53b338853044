// The packed layout of weight matrices on the CPU, written once by the loader and read by every
// product. See docs/numbers.md for why one output is one SIMD lane.
//
// W is [n, k] (out, in). Outputs are grouped in panels of 32 (n padded with zeros), inputs in pairs
// (k padded with a zero):
//   F32                 [n/32][k][32]
//   BF16, F16, F8_E4M3  [n/32][k/2][32][2]
// so that a panel is one contiguous stream, and 32 outputs advance together.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace whalepod {

constexpr int64_t kPanelRows = 32;

// Bytes of one packed [n, k] matrix, padding included.
constexpr int64_t PackedBytes(DType dtype, int64_t n, int64_t k) {
  const int64_t padded_n = (n + kPanelRows - 1) / kPanelRows * kPanelRows;
  const int64_t padded_k = (k + 1) / 2 * 2;
  return padded_n * padded_k * SizeOf(dtype);
}

// Packs rows [row0, row0 + rows) of W from row-major `src` (first element: W[row0][0]; rows
// `src_stride` elements apart) into `dest`, the packed [n, k] matrix. Ranges of rows may be packed
// by different threads if row0 is a multiple of 32 and `rows` is too or ends at n; the call that
// writes row n-1 also writes the padding.
void PackRows(DType dtype, const void* src, int64_t src_stride, int64_t row0, int64_t rows,
              int64_t n, int64_t k, void* dest);

// The same for the transposed source: `src` is [k, n] row-major; packs all of it.
void PackTransposed(DType dtype, const void* src, int64_t src_stride, int64_t n, int64_t k,
                    void* dest);

// A packed weight matrix with its block scales. Does not own memory.
struct PackedMatrix {
  DType dtype = DType::kBF16;
  int64_t n = 0;  // outputs
  int64_t k = 0;  // inputs
  const void* data = nullptr;
  // F8_E4M3 only: W[i][j] = fp8 * scales[((i + phase_n) / block_n) * scale_stride_n +
  //                                      ((j + phase_k) / block_k) * scale_stride_k].
  const float* scales = nullptr;
  int64_t scale_stride_n = 0;
  int64_t scale_stride_k = 1;
  int32_t block_n = 0;
  int32_t block_k = 0;
  int32_t phase_n = 0;  // position of output 0 in its scale block, < block_n
  int32_t phase_k = 0;
};

}  // namespace whalepod
