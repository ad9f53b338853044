// Sixteen F32 (or I32) lanes, the one vector type all CPU ops are written in. One implementation
// per instruction path; every function does the same IEEE operation per lane on all of them, so
// that an op written once gives the same bits everywhere (NaN payloads excepted). Include from
// kernels/cpu/<op>.cc only: WHALEPOD_ISA picks the path and the namespace.
//
// For each path:
//   struct F32x16, I32x16, M16 (a mask)
//   Zero() Set(x) SetI(x) Iota()                         all lanes 0 / x / x / the lane's index
//   Load(const float*) Load(const BF16*)                 16 elements, unaligned; exact
//   LoadF16(const uint16_t*)
//   LoadI(const int32_t*) StoreI(int32_t*, v)
//   Store(float*, v) Store(BF16*, v)                     BF16: rounds to nearest even
//   LoadPartial(p, n) StorePartial(p, v, n)              the first n (0..16); other lanes read as 0
//   + - * /  Fma(a, b, c) = a * b + c, one rounding      Neg Abs Sqrt
//   Max(a, b) = a > b ? a : b   Min(a, b) = a < b ? a : b     (b if either is NaN)
//   a < b, Lt Le Gt Ge Eq -> M16 (false on NaN), IsNan(a); EqI GtI
//   Select(m, a, b) = m ? a : b; SelectI; And Or Not of M16; Any(m), Bits(m) (lane i is bit i)
//   Compress(v, m, float*): stores the lanes of m one after the other and nothing behind them;
//   returns how many
//   integers: + - & | ^ MulLo ShiftLeft<n> ShiftRight<n> (logical) ShiftRightArith<n>
//   MulWide(a, b, &hi, &lo): unsigned 32 x 32 -> 64
//   AsInt(f) AsFloat(i) (same bits); ToFloat(i) (nearest even); RoundToInt(f) (nearest even)
//   ReduceMax(v): the largest lane, +0 for -0; no lane may be NaN
//   ReduceTree(v): the 16 lanes added in TreeSum's order (kernels/tree.h): neighbours first
//   ReduceTree16(v[16]): lane i is ReduceTree(v[i])
//   ExpandPairs<DType, P>(p, stride, even[P][2], odd[P][2]): 32 outputs x 2 inputs of each of P
//   packed panels (kernels/packing.h), `stride` bytes apart, to F32: even[i][0], even[i][1] are the
//   first input's 32 weights, odd[i] the second's. Of F8_E4M3 times 2^8: kUnitE4M3 undoes it.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

#define WHALEPOD_INLINE static inline __attribute__((always_inline))

#if defined(WHALEPOD_ISA_AVX512)
#include "kernels/cpu/simd_avx512.h"  // IWYU pragma: export
#elif defined(WHALEPOD_ISA_AVX2)
#include "kernels/cpu/simd_avx2.h"  // IWYU pragma: export
#elif defined(WHALEPOD_ISA_PORTABLE)
#include "kernels/cpu/simd_portable.h"  // IWYU pragma: export
#else
#error "include kernels/cpu/simd.h only from files compiled with WHALEPOD_ISA"
#endif

namespace whalepod::cpu::WHALEPOD_ISA {

constexpr float kUnitE4M3 = 0x1p-8f;

WHALEPOD_INLINE F32x16& operator+=(F32x16& a, F32x16 b) { return a = a + b; }
WHALEPOD_INLINE F32x16& operator*=(F32x16& a, F32x16 b) { return a = a * b; }

template <DType type, int P>
WHALEPOD_INLINE void ExpandPairs(const uint8_t* p, int64_t stride, F32x16 even[P][2],
                                 F32x16 odd[P][2]) {
#if defined(WHALEPOD_ISA_AVX512)
  if constexpr (type == DType::kF8E4M3) {
    ExpandPairsE4M3<P>(p, stride, even, odd);
    return;
  } else
#endif
    for (int i = 0; i < P; ++i) ExpandPair<type>(p + i * stride, even[i], odd[i]);
}

#if !defined(WHALEPOD_ISA_AVX512)  // which has an instruction for it
WHALEPOD_INLINE int Compress(F32x16 v, M16 m, float* out) {
  alignas(64) float lanes[16];
  Store(lanes, v);
  int count = 0;
  for (uint32_t bits = Bits(m); bits != 0; bits &= bits - 1) {
    out[count++] = lanes[__builtin_ctz(bits)];
  }
  return count;
}
#endif

// One fused multiply-add, for scalars.
WHALEPOD_INLINE float FmaScalar(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// One element of a buffer of activations.
WHALEPOD_INLINE float LoadScalar(const float* p) { return *p; }
WHALEPOD_INLINE float LoadScalar(const BF16* p) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(p->bits) << 16);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
