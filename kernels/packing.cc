#include "kernels/packing.h"

#include <cstring>

namespace whalepod {
namespace {

// Copies W[row][0..k) = src[0], src[step], ... into its lane; zeros if src is null (padding).
template <typename T>
void PackRow(const T* src, int64_t step, bool pairs, int64_t row, int64_t k, T* dest) {
  const int64_t padded_k = (k + 1) / 2 * 2;
  T* panel = dest + row / kPanelRows * kPanelRows * padded_k;
  const int64_t lane = row % kPanelRows;
  for (int64_t i = 0; i < padded_k; ++i) {
    const T value = src != nullptr && i < k ? src[i * step] : T{0};
    T* to = pairs ? panel + (i / 2 * kPanelRows + lane) * 2 + i % 2 : panel + i * kPanelRows + lane;
    *to = value;
  }
}

// Rows [row0, row0 + rows) by the element's size; `row_step` and `k_step` are the distances in src.
template <typename T>
void PackAs(const void* src, int64_t row_step, int64_t k_step, bool pairs, int64_t row0,
            int64_t rows, int64_t n, int64_t k, void* dest) {
  const T* from = static_cast<const T*>(src);
  T* to = static_cast<T*>(dest);
  for (int64_t r = 0; r < rows; ++r) {
    PackRow(from + r * row_step, k_step, pairs, row0 + r, k, to);
  }
  if (row0 + rows != n) return;
  const int64_t padded_n = (n + kPanelRows - 1) / kPanelRows * kPanelRows;
  for (int64_t r = n; r < padded_n; ++r) PackRow<T>(nullptr, 0, pairs, r, k, to);
}

void Pack(DType dtype, const void* src, int64_t row_step, int64_t k_step, int64_t row0,
          int64_t rows, int64_t n, int64_t k, void* dest) {
  switch (dtype) {
    case DType::kF32:
      PackAs<uint32_t>(src, row_step, k_step, false, row0, rows, n, k, dest);
      break;
    case DType::kBF16:
    case DType::kF16:
      PackAs<uint16_t>(src, row_step, k_step, true, row0, rows, n, k, dest);
      break;
    case DType::kF8E4M3:
      PackAs<uint8_t>(src, row_step, k_step, true, row0, rows, n, k, dest);
      break;
  }
}

}  // namespace

void PackRows(DType dtype, const void* src, int64_t src_stride, int64_t row0, int64_t rows,
              int64_t n, int64_t k, void* dest) {
  Pack(dtype, src, src_stride, 1, row0, rows, n, k, dest);
}

void PackTransposed(DType dtype, const void* src, int64_t src_stride, int64_t n, int64_t k,
                    void* dest) {
  Pack(dtype, src, 1, src_stride, 0, n, n, k, dest);
}

}  // namespace whalepod
