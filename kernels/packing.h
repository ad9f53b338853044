// The packed layout of weight matrices on the CPU, written once by the loader and read by every
// product. See docs/numbers.md for why one output is one SIMD lane.
//
// W is [n, k] (out, in). Outputs are grouped in panels of 32 (n padded with zeros), inputs in pairs
// (k padded with a zero):
//   F32        [n/32][k][32]
//   BF16, F16  [n/32][k/2][32][2]
//   F8_E4M3    [n/32][k/2][64], re-encoded: see PackedE4M3
// so that a panel is one contiguous stream, and 32 outputs advance together.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace whalepod {

constexpr int64_t kPanelRows = 32;

// A packed E4M3 byte. Of a code s e3 e2 e1 e0 m2 m1 m0 it holds the bits s e0 m2 m1 m0 e3 e2 e1. As
// an F32's top byte it has the sign and the last exponent bits of that byte where they belong
// (0x87), moved up by one bit the rest of the number in the next byte (0xf0); with 0x40 in the top
// byte that is the number times 2^8. Where e is 0 it is not; those bytes are the subnormals, +0,
// and NaN in the place of -0, which is packed as +0. They take a product about three times as long:
// in weights that are quantised in blocks of 128 x 128 one line of 64 in 40 to 150 has one.
constexpr uint8_t kPackedE4M3Nan = 0x80;
// All of these bits are 0 where e is.
constexpr uint8_t kPackedE4M3Exponent = 0x47;
constexpr uint8_t PackedE4M3(uint8_t code) {
  const int magnitude = code & 0x7f;
  if (magnitude == 0x7f) return kPackedE4M3Nan;
  if (magnitude == 0) return 0;
  return static_cast<uint8_t>((code & 0x80) | (code & 0x0f) << 3 | magnitude >> 4);
}
constexpr uint8_t UnpackedE4M3(uint8_t packed) {
  if (packed == kPackedE4M3Nan) return 0x7f;
  return static_cast<uint8_t>((packed & 0x80) | (packed & 0x07) << 4 | (packed & 0x78) >> 3);
}

// Where in a pair's 64 bytes an output's (0..31) input (0 or 1) is: eight bytes hold both inputs of
// outputs 2q, 2q + 1, 16 + 2q and 17 + 2q, a pair of lanes of each register they go to.
constexpr int64_t PackedE4M3At(int64_t output, int64_t input) {
  return output % 16 / 2 * 8 + output / 16 * 4 + output % 2 * 2 + input;
}

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
