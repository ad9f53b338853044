#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"
#include "kernels/tree.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

// Adds the 16 (or `count`) columns at `offset` of every partial. Small numbers of partials, all
// that happens between ranks of one host, are unrolled.
template <int lo, int hi, typename Leaf>
WHALEPOD_INLINE F32x16 UnrolledTree(const Leaf& leaf) {
  if constexpr (hi - lo == 1) {
    return leaf(lo);
  } else {
    constexpr int mid = static_cast<int>(TreeSplit(lo, hi));
    const F32x16 left = UnrolledTree<lo, mid>(leaf);
    return left + UnrolledTree<mid, hi>(leaf);
  }
}

template <typename Leaf>
WHALEPOD_INLINE F32x16 Tree(int64_t n, const Leaf& leaf) {
  switch (n) {
    case 1:
      return leaf(0);
    case 2:
      return UnrolledTree<0, 2>(leaf);
    case 3:
      return UnrolledTree<0, 3>(leaf);
    case 4:
      return UnrolledTree<0, 4>(leaf);
    case 8:
      return UnrolledTree<0, 8>(leaf);
    default:
      return TreeSum<F32x16>(0, n, leaf);
  }
}

void AddRow(const TreeAddArgs& args, int64_t row) {
  const float* const* partials = args.partials.data();
  const int64_t n = static_cast<int64_t>(args.partials.size());
  float* out = args.out + row * args.ldo;
  int64_t i = 0;
  for (; i + 16 <= args.cols; i += 16) {
    const int64_t offset = row * args.ldp + i;
    const F32x16 sum = Tree(n, [&](int64_t p) { return Load(partials[p] + offset); });
    Store(out + i, args.accumulate ? Load(out + i) + sum : sum);
  }
  if (i < args.cols) {
    const int rest = static_cast<int>(args.cols - i);
    const int64_t offset = row * args.ldp + i;
    const F32x16 sum = Tree(n, [&](int64_t p) { return LoadPartial(partials[p] + offset, rest); });
    StorePartial(out + i, args.accumulate ? LoadPartial(out + i, rest) + sum : sum, rest);
  }
}

}  // namespace

void TreeAdd(const TreeAddArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) AddRow(args, row);
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
