// The AVX-512 path of kernels/cpu/simd.h (F, BW, VL, DQ and VBMI).
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/packing.h"

namespace whalepod::cpu::avx512 {

struct F32x16 {
  __m512 v;
};
struct I32x16 {
  __m512i v;
};
struct M16 {
  __mmask16 bits;
};

namespace simd_internal {

WHALEPOD_INLINE __mmask16 FirstLanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
WHALEPOD_INLINE F32x16 WidenBF16(__m256i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
}
// Not VCVTNEPS2BF16: it takes denormals for zero.
WHALEPOD_INLINE __m256i NarrowBF16(F32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i lsb = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(lsb, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i chosen = _mm512_mask_blend_epi32(nan, rounded, quiet);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16));
}

}  // namespace simd_internal

WHALEPOD_INLINE F32x16 Zero() { return {_mm512_setzero_ps()}; }
WHALEPOD_INLINE F32x16 Set(float x) { return {_mm512_set1_ps(x)}; }
WHALEPOD_INLINE I32x16 SetI(int32_t x) { return {_mm512_set1_epi32(x)}; }
WHALEPOD_INLINE I32x16 Iota() {
  return {_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}

WHALEPOD_INLINE F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
WHALEPOD_INLINE F32x16 Load(const BF16* p) {
  return simd_internal::WidenBF16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
WHALEPOD_INLINE F32x16 LoadPartial(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(simd_internal::FirstLanes(n), p)};
}
WHALEPOD_INLINE F32x16 LoadPartial(const BF16* p, int n) {
  return simd_internal::WidenBF16(_mm256_maskz_loadu_epi16(simd_internal::FirstLanes(n), p));
}
WHALEPOD_INLINE F32x16 LoadF16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
WHALEPOD_INLINE I32x16 LoadI(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
WHALEPOD_INLINE void StoreI(int32_t* p, I32x16 a) { _mm512_storeu_si512(p, a.v); }
WHALEPOD_INLINE void Store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
WHALEPOD_INLINE void Store(BF16* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), simd_internal::NarrowBF16(a));
}
WHALEPOD_INLINE void StorePartial(float* p, F32x16 a, int n) {
  _mm512_mask_storeu_ps(p, simd_internal::FirstLanes(n), a.v);
}
WHALEPOD_INLINE void StorePartial(BF16* p, F32x16 a, int n) {
  _mm256_mask_storeu_epi16(p, simd_internal::FirstLanes(n), simd_internal::NarrowBF16(a));
}

WHALEPOD_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
WHALEPOD_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
WHALEPOD_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
WHALEPOD_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
WHALEPOD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
WHALEPOD_INLINE F32x16 Neg(F32x16 a) {
  return {_mm512_castsi512_ps(
      _mm512_xor_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(INT32_MIN)))};
}
WHALEPOD_INLINE F32x16 Abs(F32x16 a) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(INT32_MAX)))};
}
WHALEPOD_INLINE F32x16 Sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
WHALEPOD_INLINE F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
WHALEPOD_INLINE F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }

WHALEPOD_INLINE M16 Lt(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
WHALEPOD_INLINE M16 Le(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
WHALEPOD_INLINE M16 Gt(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
WHALEPOD_INLINE M16 Ge(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
WHALEPOD_INLINE M16 Eq(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
WHALEPOD_INLINE M16 IsNan(F32x16 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
WHALEPOD_INLINE M16 EqI(I32x16 a, I32x16 b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
WHALEPOD_INLINE M16 GtI(I32x16 a, I32x16 b) { return {_mm512_cmpgt_epi32_mask(a.v, b.v)}; }
WHALEPOD_INLINE F32x16 Select(M16 m, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(m.bits, b.v, a.v)};
}
WHALEPOD_INLINE I32x16 SelectI(M16 m, I32x16 a, I32x16 b) {
  return {_mm512_mask_blend_epi32(m.bits, b.v, a.v)};
}
WHALEPOD_INLINE M16 And(M16 a, M16 b) { return {static_cast<__mmask16>(a.bits & b.bits)}; }
WHALEPOD_INLINE M16 Or(M16 a, M16 b) { return {static_cast<__mmask16>(a.bits | b.bits)}; }
WHALEPOD_INLINE M16 Not(M16 a) { return {static_cast<__mmask16>(~a.bits)}; }
WHALEPOD_INLINE bool Any(M16 m) { return m.bits != 0; }
WHALEPOD_INLINE uint32_t Bits(M16 m) { return m.bits; }
WHALEPOD_INLINE int Compress(F32x16 v, M16 m, float* out) {
  // In a register first: straight to memory it is microcode on some processors.
  const int count = __builtin_popcount(m.bits);
  const auto stored = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_ps(out, stored, _mm512_maskz_compress_ps(m.bits, v.v));
  return count;
}

WHALEPOD_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
WHALEPOD_INLINE I32x16 operator-(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
WHALEPOD_INLINE I32x16 operator&(I32x16 a, I32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
WHALEPOD_INLINE I32x16 operator|(I32x16 a, I32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
WHALEPOD_INLINE I32x16 operator^(I32x16 a, I32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
WHALEPOD_INLINE I32x16 MulLo(I32x16 a, I32x16 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
template <int n>
WHALEPOD_INLINE I32x16 ShiftLeft(I32x16 a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftRight(I32x16 a) {
  return {_mm512_srli_epi32(a.v, n)};
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftRightArith(I32x16 a) {
  return {_mm512_srai_epi32(a.v, n)};
}
WHALEPOD_INLINE void MulWide(I32x16 a, I32x16 b, I32x16* hi, I32x16* lo) {
  const __m512i even = _mm512_mul_epu32(a.v, b.v);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), _mm512_srli_epi64(b.v, 32));
  hi->v = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
  lo->v = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}
WHALEPOD_INLINE I32x16 AsInt(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
WHALEPOD_INLINE F32x16 AsFloat(I32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
WHALEPOD_INLINE F32x16 ToFloat(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
WHALEPOD_INLINE I32x16 RoundToInt(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }

WHALEPOD_INLINE float ReduceMax(F32x16 a) { return _mm512_reduce_max_ps(a.v) + 0.0f; }

WHALEPOD_INLINE float ReduceTree(F32x16 a) {
  const __m256 lo = _mm512_castps512_ps256(a.v);
  const __m256 hi = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 pairs = _mm256_hadd_ps(lo, hi);        // lo01 lo23 hi01 hi23 | lo45 lo67 hi45 hi67
  const __m256 quads = _mm256_hadd_ps(pairs, pairs);  // lo0-3 hi0-3 .. | lo4-7 hi4-7 ..
  const __m128 eights = _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1));
  return _mm_cvtss_f32(_mm_add_ss(eights, _mm_movehdup_ps(eights)));
}

namespace simd_internal {
// In each quarter: the two halves' neighbours of a, then of b, added.
WHALEPOD_INLINE __m512 AddNeighbours(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
WHALEPOD_INLINE __m512 AddQuarters(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
}  // namespace simd_internal

WHALEPOD_INLINE F32x16 ReduceTree16(const F32x16 v[16]) {
  using simd_internal::AddNeighbours;
  using simd_internal::AddQuarters;
  __m512 quads[4];  // quarter q: lanes 4q..4q+3 of four vectors
  for (int i = 0; i < 4; ++i) {
    quads[i] = AddNeighbours(AddNeighbours(v[4 * i].v, v[4 * i + 1].v),
                             AddNeighbours(v[4 * i + 2].v, v[4 * i + 3].v));
  }
  return {AddQuarters(AddQuarters(quads[0], quads[1]), AddQuarters(quads[2], quads[3]))};
}

namespace simd_internal {

// Dwords of (even, odd) BF16 pairs to F32.
WHALEPOD_INLINE F32x16 EvenBF16(__m512i pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))};
}
WHALEPOD_INLINE F32x16 OddBF16(__m512i pairs) {
  return {_mm512_castsi512_ps(
      _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))))};
}

// Which bits of eight packed E4M3 codes (a qword) become the BF16 numbers of the four from byte
// `first` on.
constexpr int64_t BitsOfCodes(uint64_t first) {
  uint64_t bits = 0;
  for (uint64_t i = 0; i < 4; ++i) {
    const uint64_t at = 8 * (first + i);
    bits |= (at << 8 | ((at - 1) & 63)) << 16 * i;
  }
  return static_cast<int64_t>(bits);
}

// Of F32 with F32 exponent 128, which stand for E4M3 with exponent 0: they say 2 + m / 4 for m / 2,
// and -2 for NaN.
WHALEPOD_INLINE __m512 FixSubnormals(__m512 f) {
  const __m512i sign = _mm512_set1_epi32(INT32_MIN);
  const __m512 four = _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      _mm512_castps_si512(f), sign, _mm512_castps_si512(_mm512_set1_ps(4.0f)), 0xea));
  const __mmask16 small = _mm512_cmp_ps_mask(_mm512_abs_ps(f), _mm512_set1_ps(4.0f), _CMP_LT_OQ);
  const __mmask16 nan = _mm512_cmp_ps_mask(f, _mm512_set1_ps(-2.0f), _CMP_EQ_OQ);
  f = _mm512_mask_fmsub_ps(f, small, _mm512_set1_ps(2.0f), four);
  return _mm512_mask_mov_ps(f, nan, _mm512_set1_ps(__builtin_nanf("")));
}

// 64 packed codes times 2^8, but for those of exponent 0, which it returns.
WHALEPOD_INLINE __mmask64 WidenPackedE4M3(__m512i codes, F32x16 even[2], F32x16 odd[2]) {
  constexpr int64_t kBits[2] = {BitsOfCodes(0), BitsOfCodes(4)};
  for (int half = 0; half < 2; ++half) {
    const __m512i chosen = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(kBits[half]), codes);
    // chosen & 0x87f0 | 0x4000, in each
    const __m512i pairs =
        _mm512_ternarylogic_epi32(chosen, _mm512_set1_epi32(static_cast<int32_t>(0x87f087f0u)),
                                  _mm512_set1_epi32(0x40004000), 0xea);
    even[half] = EvenBF16(pairs);
    odd[half] = OddBF16(pairs);
  }
  return _mm512_testn_epi8_mask(codes, _mm512_set1_epi8(static_cast<char>(kPackedE4M3Exponent)));
}

}  // namespace simd_internal

template <DType type>
WHALEPOD_INLINE void ExpandPair(const uint8_t* p, F32x16 even[2], F32x16 odd[2]) {
  static_assert(type != DType::kF8E4M3, "see ExpandPairsE4M3");
  if constexpr (type == DType::kF32) {
    const float* w = reinterpret_cast<const float*>(p);
    even[0] = Load(w);
    even[1] = Load(w + 16);
    odd[0] = Load(w + 32);
    odd[1] = Load(w + 48);
  } else if constexpr (type == DType::kBF16) {
    for (int half = 0; half < 2; ++half) {
      const __m512i pairs = _mm512_loadu_si512(p + 64 * half);
      even[half] = simd_internal::EvenBF16(pairs);
      odd[half] = simd_internal::OddBF16(pairs);
    }
  } else {
    for (int half = 0; half < 2; ++half) {
      const __m512i pairs = _mm512_loadu_si512(p + 64 * half);
      even[half].v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
      odd[half].v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
    }
  }
}

// ExpandPairs of F8_E4M3: one test for all P lines.
template <int P>
WHALEPOD_INLINE void ExpandPairsE4M3(const uint8_t* p, int64_t stride, F32x16 even[P][2],
                                     F32x16 odd[P][2]) {
  __mmask64 special[P], any = 0;
  for (int i = 0; i < P; ++i) {
    const __m512i codes = _mm512_loadu_si512(p + i * stride);
    special[i] = simd_internal::WidenPackedE4M3(codes, even[i], odd[i]);
    any |= special[i];
  }
  if (__builtin_expect(any == 0, 1)) return;
  for (int i = 0; i < P; ++i) {
    for (int half = 0; half < 2 && special[i] != 0; ++half) {
      even[i][half].v = simd_internal::FixSubnormals(even[i][half].v);
      odd[i][half].v = simd_internal::FixSubnormals(odd[i][half].v);
    }
  }
}

}  // namespace whalepod::cpu::avx512
