// The one summation tree. Leaves 0..n-1; the range [lo, hi) is split at lo + (hi - lo + 1) / 2 and
// the two halves' sums are added, left + right. For n a power of two this is the balanced binary
// tree. Whoever owns a range that is a node of this tree may add it up alone; see docs/numbers.md.
#pragma once

#include <cstdint>

namespace whalepod {

constexpr int64_t TreeSplit(int64_t lo, int64_t hi) { return lo + (hi - lo + 1) / 2; }

// Sum of leaf(lo..hi-1) in tree order; hi > lo. T needs operator+.
template <typename T, typename Leaf>
T TreeSum(int64_t lo, int64_t hi, const Leaf& leaf) {
  if (hi - lo == 1) return leaf(lo);
  const int64_t mid = TreeSplit(lo, hi);
  const T left = TreeSum<T>(lo, mid, leaf);
  const T right = TreeSum<T>(mid, hi, leaf);
  return left + right;
}

}  // namespace whalepod
