#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {
namespace {

constexpr float kLeastAmax = 1e-4f;
constexpr float kLargestE4M3 = 448.0f;
constexpr int64_t kGrainElements = 1 << 14;

// x rounded to the nearest E4M3 value (ties to even, saturating, NaN stays NaN), as F32.
WHALEPOD_INLINE F32x16 RoundToE4M3(F32x16 x) {
  const I32x16 bits = AsInt(x);
  const I32x16 sign = bits & SetI(INT32_MIN);
  const I32x16 magnitude = bits & SetI(INT32_MAX);
  // Normal numbers keep 3 bits of mantissa.
  const I32x16 lsb = ShiftRight<20>(magnitude) & SetI(1);
  const I32x16 rounded =
      (magnitude + SetI(0x7ffff) + lsb) & SetI(static_cast<int32_t>(0xfff00000u));
  // Below 2^-6: multiples of 2^-9, which adding 2^14 leaves.
  const F32x16 plain = AsFloat(magnitude);
  const F32x16 small = (plain + Set(0x1p14f)) - Set(0x1p14f);
  F32x16 value = Select(Lt(plain, Set(0x1p-6f)), small, AsFloat(rounded));
  value = Select(Gt(value, Set(kLargestE4M3)), Set(kLargestE4M3), value);
  value = Select(IsNan(x), x, value);
  return AsFloat(AsInt(value) | sign);
}

// The largest magnitude of x[0..n), at least kLeastAmax; NaN if any is NaN.
template <typename T>
float LargestMagnitude(const T* x, int64_t n) {
  F32x16 largest = Set(kLeastAmax);
  M16 nan = IsNan(Zero());
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 v = Abs(n - i < 16 ? LoadPartial(x + i, static_cast<int>(n - i)) : Load(x + i));
    nan = Or(nan, IsNan(v));
    largest = Max(largest, v);
  }
  if (Any(nan)) return __builtin_nanf("");
  alignas(64) float lanes[16];
  Store(lanes, largest);
  float most = lanes[0];
  for (int i = 1; i < 16; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

template <typename T>
void QuantizeRow(const QuantizeArgs& args, const T* x, BF16* out, float* scales) {
  const int64_t segment = args.segment_k > 0 && args.segment_k < args.k ? args.segment_k : args.k;
  for (int64_t begin = 0, end = 0; begin < args.k; begin = end) {
    const int64_t segment_end = (begin / segment + 1) * segment;
    end = ((begin + args.phase_k) / args.block_k + 1) * args.block_k - args.phase_k;
    if (end > segment_end) end = segment_end;
    if (end > args.k) end = args.k;
    const float scale = LargestMagnitude(x + begin, end - begin) / kLargestE4M3;
    *scales++ = scale;
    for (int64_t i = begin; i < end; i += 16) {
      const int n = static_cast<int>(end - i < 16 ? end - i : 16);
      StorePartial(out + i, RoundToE4M3(LoadPartial(x + i, n) / Set(scale)), n);
    }
  }
}

}  // namespace

void Quantize(const QuantizeArgs& args, ThreadPool& pool) {
  const int64_t grain = (kGrainElements + args.k - 1) / args.k;
  pool.ParallelFor(args.m, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      BF16* out = args.out + r * args.ldo;
      float* scales = args.scales + r * args.lds;
      if (args.x_type == DType::kF32) {
        QuantizeRow(args, static_cast<const float*>(args.x) + r * args.ldx, out, scales);
      } else {
        QuantizeRow(args, static_cast<const BF16*>(args.x) + r * args.ldx, out, scales);
      }
    }
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
