#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

WHALEPOD_INLINE F32x16 LoadWeight(const float* p) { return Load(p); }
WHALEPOD_INLINE F32x16 LoadWeight(const BF16* p) { return Load(p); }
WHALEPOD_INLINE F32x16 LoadWeight(const uint16_t* p) { return LoadF16(p); }

// The first n < 16 weights.
template <typename Weight>
WHALEPOD_INLINE F32x16 LoadLastWeights(const Weight* p, int n) {
  Weight last[16] = {};
  for (int i = 0; i < n; ++i) last[i] = p[i];
  return LoadWeight(last);
}

template <typename Weight, typename Out>
void NormRow(const float* x, const Weight* weight, int64_t width, float eps, Out* out) {
  const int64_t whole = width / 16 * 16;
  const int rest = static_cast<int>(width - whole);
  F32x16 sum = Zero();
  for (int64_t i = 0; i < whole; i += 16) {
    const F32x16 v = Load(x + i);
    sum = Fma(v, v, sum);
  }
  if (rest > 0) {
    const F32x16 v = LoadPartial(x + whole, rest);
    sum = Fma(v, v, sum);
  }
  const float mean = ReduceTree(sum) / static_cast<float>(width);
  const F32x16 inverse = Set(1.0f) / Sqrt(Set(mean + eps));
  for (int64_t i = 0; i < whole; i += 16) {
    Store(out + i, Load(x + i) * inverse * LoadWeight(weight + i));
  }
  if (rest > 0) {
    const F32x16 v = LoadPartial(x + whole, rest) * inverse * LoadLastWeights(weight + whole, rest);
    StorePartial(out + whole, v, rest);
  }
}

template <typename Weight, typename Out>
void NormRows(const RmsNormArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      NormRow(args.x + t * args.ldx, static_cast<const Weight*>(args.weight), args.width, args.eps,
              static_cast<Out*>(args.out) + t * args.ldo);
    }
  });
}

template <typename Out>
void Dispatch(const RmsNormArgs& args, ThreadPool& pool) {
  switch (args.weight_type) {
    case DType::kF32:
      return NormRows<float, Out>(args, pool);
    case DType::kBF16:
      return NormRows<BF16, Out>(args, pool);
    case DType::kF16:
      return NormRows<uint16_t, Out>(args, pool);
    case DType::kF8E4M3:  // refused by validation
      return;
  }
}

}  // namespace

void RmsNorm(const RmsNormArgs& args, ThreadPool& pool) {
  args.out_type == DType::kF32 ? Dispatch<float>(args, pool) : Dispatch<BF16>(args, pool);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
