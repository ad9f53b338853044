// Products as docs/numbers.md defines them, one output at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/packing.h"
#include "kernels/tree.h"

namespace whalepod {

// A weight matrix in plain row-major form. For F8_E4M3 `values` are the raw numbers, and
// Scale(i, j) is that of element (i, j).
struct PlainMatrix {
  int64_t n = 0, k = 0;
  std::vector<float> values;  // [n, k]
  bool scaled = false;
  PackedMatrix packed;  // scales and phases are read from here

  float Scale(int64_t i, int64_t j) const {
    return packed.scales[(i + packed.phase_n) / packed.block_n * packed.scale_stride_n +
                         (j + packed.phase_k) / packed.block_k * packed.scale_stride_k];
  }
};

// sum over one run [k0, k1) of a row: even columns pair with the odd ones after them, the odd one
// first; at the matrix's odd end the partner is zero.
inline float RunSum(const float* a, const float* w, int64_t k0, int64_t k1, int64_t k) {
  float acc = 0;
  for (int64_t i = k0 / 2 * 2; i < k1; i += 2) {
    if (i + 1 == k) {
      acc = std::fma(0.0f, 0.0f, acc);
    } else if (i + 1 < k1) {
      acc = std::fma(a[i + 1], w[i + 1], acc);
    }
    if (i >= k0) acc = std::fma(a[i], w[i], acc);
  }
  return acc;
}

// Output `i` for the row `a`; a_scales is the row's, one per run, or null.
inline float ReferenceProduct(const PlainMatrix& w, const float* a, int64_t i, int64_t segment_k,
                              const float* a_scales) {
  if (segment_k == 0) segment_k = w.k;
  const float* row = w.values.data() + i * w.k;
  std::vector<float> sums;
  int64_t run = 0;
  for (int64_t begin = 0; begin < w.k; begin += segment_k) {
    const int64_t end = std::min(begin + segment_k, w.k);
    if (!w.scaled) {
      sums.push_back(RunSum(a, row, begin, end, w.k));
      continue;
    }
    float total = 0;
    for (int64_t k0 = begin, k1; k0 < end; k0 = k1, ++run) {
      k1 = k0 + 1;
      while (k1 < end && (k1 + w.packed.phase_k) % w.packed.block_k != 0) ++k1;
      float scale = w.Scale(i, k0);
      if (a_scales != nullptr) scale = a_scales[run] * scale;
      total = std::fma(scale, RunSum(a, row, k0, k1, w.k), total);
    }
    sums.push_back(total);
  }
  return TreeSum<float>(0, static_cast<int64_t>(sums.size()),
                        [&](int64_t s) { return sums[static_cast<size_t>(s)]; });
}

}  // namespace whalepod
