// Where the layout of kernels/packing.h puts a weight.
#pragma once

#include <cstdint>

#include "kernels/packing.h"

namespace whalepod {

// The index of W[row][column] among the elements of a packed [n, k] matrix.
inline int64_t PackedIndex(DType dtype, int64_t row, int64_t column, int64_t k) {
  const int64_t padded_k = (k + 1) / 2 * 2;
  const int64_t panel = row / 32 * 32 * padded_k;
  if (dtype == DType::kF32) return panel + column * 32 + row % 32;
  const int64_t pair = panel + column / 2 * 64;
  if (dtype == DType::kF8E4M3) return pair + PackedE4M3At(row % 32, column % 2);
  return pair + row % 32 * 2 + column % 2;
}

}  // namespace whalepod
