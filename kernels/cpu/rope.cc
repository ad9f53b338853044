#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

constexpr int64_t kPiece = 64;  // elements widened to F32 at once; even

void RotatePairs(const float* cos, const float* sin, int64_t pairs, float* x) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

void RotateHead(const float* cos, const float* sin, int64_t dim, float* x) {
  RotatePairs(cos, sin, dim / 2, x);
}

void RotateHead(const float* cos, const float* sin, int64_t dim, BF16* x) {
  float wide[kPiece];
  for (int64_t i = 0; i < dim; i += kPiece) {
    const int n = static_cast<int>(dim - i < kPiece ? dim - i : kPiece);
    for (int j = 0; j < n; j += 16) {
      Store(wide + j, n - j >= 16 ? Load(x + i + j) : LoadPartial(x + i + j, n - j));
    }
    RotatePairs(cos + i / 2, sin + i / 2, n / 2, wide);
    for (int j = 0; j < n; j += 16) {
      const F32x16 rotated = Load(wide + j);
      n - j >= 16 ? Store(x + i + j, rotated) : StorePartial(x + i + j, rotated, n - j);
    }
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
