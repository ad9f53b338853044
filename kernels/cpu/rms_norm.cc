#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

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
    Store(out + i, Load(x + i) * inverse * Load(weight + i));
  }
  if (rest > 0) {
    const F32x16 v = LoadPartial(x + whole, rest) * inverse * LoadPartial(weight + whole, rest);
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

}  // namespace

void RmsNorm(const RmsNormArgs& args, ThreadPool& pool) {
  const bool weight_f32 = args.weight_type == DType::kF32;
  if (args.out_type == DType::kF32) {
    weight_f32 ? NormRows<float, float>(args, pool) : NormRows<BF16, float>(args, pool);
  } else {
    weight_f32 ? NormRows<float, BF16>(args, pool) : NormRows<BF16, BF16>(args, pool);
  }
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
