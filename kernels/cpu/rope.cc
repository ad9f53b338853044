#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

WHALEPOD_INLINE void StoreScalar(float* p, float x) { *p = x; }
WHALEPOD_INLINE void StoreScalar(BF16* p, float x) { StorePartial(p, Set(x), 1); }

template <typename T>
void RotateHead(const float* cos, const float* sin, int64_t dim, T* x) {
  for (int64_t i = 0; i < dim / 2; ++i) {
    const float a = LoadScalar(x + 2 * i);
    const float b = LoadScalar(x + 2 * i + 1);
    StoreScalar(x + 2 * i, a * cos[i] - b * sin[i]);
    StoreScalar(x + 2 * i + 1, a * sin[i] + b * cos[i]);
  }
}

template <typename T>
void Rotate(const RopeArgs& args, ThreadPool& pool) {
  const int64_t half = args.dim / 2;
  pool.ParallelFor(args.tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos = args.cos + args.positions[t] * half;
      const float* sin = args.sin + args.positions[t] * half;
      T* row = static_cast<T*>(args.x) + t * args.token_stride;
      for (int64_t h = 0; h < args.heads; ++h) {
        RotateHead(cos, sin, args.dim, row + h * args.head_stride);
      }
    }
  });
}

}  // namespace

void Rope(const RopeArgs& args, ThreadPool& pool) {
  args.type == DType::kF32 ? Rotate<float>(args, pool) : Rotate<BF16>(args, pool);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
