// The AVX2 path of kernels/cpu/simd.h (AVX2, FMA and F16C): two halves of eight lanes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/packing.h"

namespace whalepod::cpu::avx2 {

struct F32x16 {
  __m256 lo, hi;
};
struct I32x16 {
  __m256i lo, hi;
};
struct M16 {
  __m256 lo, hi;  // all ones or zeros per lane
};

namespace simd_internal {

// The mask of the first n lanes of eight, n clamped to 0..8.
WHALEPOD_INLINE __m256i FirstLanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
WHALEPOD_INLINE __m256 WidenBF16(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
WHALEPOD_INLINE __m128i NarrowBF16(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i lsb = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_cmp_ps(a, a, _CMP_UNORD_Q);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i chosen =
      _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(nan)), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}

}  // namespace simd_internal

WHALEPOD_INLINE F32x16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
WHALEPOD_INLINE F32x16 Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
WHALEPOD_INLINE I32x16 SetI(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
WHALEPOD_INLINE I32x16 Iota() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
          _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}

WHALEPOD_INLINE F32x16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
WHALEPOD_INLINE F32x16 Load(const BF16* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {simd_internal::WidenBF16(_mm_loadu_si128(q)),
          simd_internal::WidenBF16(_mm_loadu_si128(q + 1))};
}
WHALEPOD_INLINE F32x16 LoadPartial(const float* p, int n) {
  return {_mm256_maskload_ps(p, simd_internal::FirstLanes(n)),
          _mm256_maskload_ps(p + 8, simd_internal::FirstLanes(n - 8))};
}
WHALEPOD_INLINE F32x16 LoadPartial(const BF16* p, int n) {
  BF16 copy[16] = {};
  for (int i = 0; i < n; ++i) copy[i] = p[i];
  return Load(copy);
}
WHALEPOD_INLINE F32x16 LoadF16(const uint16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
WHALEPOD_INLINE I32x16 LoadI(const int32_t* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
WHALEPOD_INLINE void StoreI(int32_t* p, I32x16 a) {
  __m256i* q = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(q, a.lo);
  _mm256_storeu_si256(q + 1, a.hi);
}
WHALEPOD_INLINE void Store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
WHALEPOD_INLINE void Store(BF16* p, F32x16 a) {
  __m128i* q = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(q, simd_internal::NarrowBF16(a.lo));
  _mm_storeu_si128(q + 1, simd_internal::NarrowBF16(a.hi));
}
WHALEPOD_INLINE void StorePartial(float* p, F32x16 a, int n) {
  _mm256_maskstore_ps(p, simd_internal::FirstLanes(n), a.lo);
  _mm256_maskstore_ps(p + 8, simd_internal::FirstLanes(n - 8), a.hi);
}
WHALEPOD_INLINE void StorePartial(BF16* p, F32x16 a, int n) {
  BF16 copy[16];
  Store(copy, a);
  for (int i = 0; i < n; ++i) p[i] = copy[i];
}

WHALEPOD_INLINE F32x16 operator+(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE F32x16 operator-(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE F32x16 operator*(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE F32x16 operator/(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
WHALEPOD_INLINE F32x16 Neg(F32x16 a) {
  const __m256 sign = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN));
  return {_mm256_xor_ps(a.lo, sign), _mm256_xor_ps(a.hi, sign)};
}
WHALEPOD_INLINE F32x16 Abs(F32x16 a) {
  const __m256 rest = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MAX));
  return {_mm256_and_ps(a.lo, rest), _mm256_and_ps(a.hi, rest)};
}
WHALEPOD_INLINE F32x16 Sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
WHALEPOD_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}

namespace simd_internal {
template <int predicate>
WHALEPOD_INLINE M16 Compare(F32x16 a, F32x16 b) {
  return {_mm256_cmp_ps(a.lo, b.lo, predicate), _mm256_cmp_ps(a.hi, b.hi, predicate)};
}
}  // namespace simd_internal

WHALEPOD_INLINE M16 Lt(F32x16 a, F32x16 b) { return simd_internal::Compare<_CMP_LT_OQ>(a, b); }
WHALEPOD_INLINE M16 Le(F32x16 a, F32x16 b) { return simd_internal::Compare<_CMP_LE_OQ>(a, b); }
WHALEPOD_INLINE M16 Gt(F32x16 a, F32x16 b) { return simd_internal::Compare<_CMP_GT_OQ>(a, b); }
WHALEPOD_INLINE M16 Ge(F32x16 a, F32x16 b) { return simd_internal::Compare<_CMP_GE_OQ>(a, b); }
WHALEPOD_INLINE M16 Eq(F32x16 a, F32x16 b) { return simd_internal::Compare<_CMP_EQ_OQ>(a, b); }
WHALEPOD_INLINE M16 IsNan(F32x16 a) { return simd_internal::Compare<_CMP_UNORD_Q>(a, a); }
WHALEPOD_INLINE M16 EqI(I32x16 a, I32x16 b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.lo, b.lo)),
          _mm256_castsi256_ps(_mm256_cmpeq_epi32(a.hi, b.hi))};
}
WHALEPOD_INLINE M16 GtI(I32x16 a, I32x16 b) {
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(a.lo, b.lo)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.hi, b.hi))};
}
WHALEPOD_INLINE F32x16 Select(M16 m, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, m.lo), _mm256_blendv_ps(b.hi, a.hi, m.hi)};
}
WHALEPOD_INLINE I32x16 SelectI(M16 m, I32x16 a, I32x16 b) {
  return {_mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(m.lo)),
          _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(m.hi))};
}
WHALEPOD_INLINE M16 And(M16 a, M16 b) {
  return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE M16 Or(M16 a, M16 b) {
  return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)};
}
WHALEPOD_INLINE M16 Not(M16 a) {
  const __m256 ones = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
  return {_mm256_xor_ps(a.lo, ones), _mm256_xor_ps(a.hi, ones)};
}
WHALEPOD_INLINE uint32_t Bits(M16 m) {
  return static_cast<uint32_t>(_mm256_movemask_ps(m.lo)) |
         static_cast<uint32_t>(_mm256_movemask_ps(m.hi)) << 8;
}
WHALEPOD_INLINE bool Any(M16 m) { return Bits(m) != 0; }

WHALEPOD_INLINE I32x16 operator+(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
WHALEPOD_INLINE I32x16 operator-(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
WHALEPOD_INLINE I32x16 operator&(I32x16 a, I32x16 b) {
  return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
}
WHALEPOD_INLINE I32x16 operator|(I32x16 a, I32x16 b) {
  return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
}
WHALEPOD_INLINE I32x16 operator^(I32x16 a, I32x16 b) {
  return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
}
WHALEPOD_INLINE I32x16 MulLo(I32x16 a, I32x16 b) {
  return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)};
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftLeft(I32x16 a) {
  return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftRight(I32x16 a) {
  return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftRightArith(I32x16 a) {
  return {_mm256_srai_epi32(a.lo, n), _mm256_srai_epi32(a.hi, n)};
}

namespace simd_internal {
WHALEPOD_INLINE void MulWideHalf(__m256i a, __m256i b, __m256i* hi, __m256i* lo) {
  const __m256i even = _mm256_mul_epu32(a, b);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), _mm256_srli_epi64(b, 32));
  *hi = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  *lo = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
}  // namespace simd_internal

WHALEPOD_INLINE void MulWide(I32x16 a, I32x16 b, I32x16* hi, I32x16* lo) {
  simd_internal::MulWideHalf(a.lo, b.lo, &hi->lo, &lo->lo);
  simd_internal::MulWideHalf(a.hi, b.hi, &hi->hi, &lo->hi);
}
WHALEPOD_INLINE I32x16 AsInt(F32x16 a) {
  return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)};
}
WHALEPOD_INLINE F32x16 AsFloat(I32x16 a) {
  return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)};
}
WHALEPOD_INLINE F32x16 ToFloat(I32x16 a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
WHALEPOD_INLINE I32x16 RoundToInt(F32x16 a) {
  return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}

WHALEPOD_INLINE float ReduceMax(F32x16 a) {
  const __m256 eight = _mm256_max_ps(a.lo, a.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two))) + 0.0f;
}

WHALEPOD_INLINE float ReduceTree(F32x16 a) {
  const __m256 pairs = _mm256_hadd_ps(a.lo, a.hi);    // lo01 lo23 hi01 hi23 | lo45 lo67 hi45 hi67
  const __m256 quads = _mm256_hadd_ps(pairs, pairs);  // lo0-3 hi0-3 .. | lo4-7 hi4-7 ..
  const __m128 eights = _mm_add_ps(_mm256_castps256_ps128(quads), _mm256_extractf128_ps(quads, 1));
  return _mm_cvtss_f32(_mm_add_ss(eights, _mm_movehdup_ps(eights)));
}

namespace simd_internal {
// The sums of lanes 0-7 and 8-15 of v[a], v[b] | v[c], v[d].
WHALEPOD_INLINE __m256 SumEights(const F32x16* v, int a, int b, int c, int d) {
  const __m256 ab =
      _mm256_hadd_ps(_mm256_hadd_ps(v[a].lo, v[a].hi), _mm256_hadd_ps(v[b].lo, v[b].hi));
  const __m256 cd =
      _mm256_hadd_ps(_mm256_hadd_ps(v[c].lo, v[c].hi), _mm256_hadd_ps(v[d].lo, v[d].hi));
  return _mm256_add_ps(_mm256_permute2f128_ps(ab, cd, 0x20), _mm256_permute2f128_ps(ab, cd, 0x31));
}
}  // namespace simd_internal

WHALEPOD_INLINE F32x16 ReduceTree16(const F32x16 v[16]) {
  using simd_internal::SumEights;
  return {_mm256_hadd_ps(SumEights(v, 0, 1, 4, 5), SumEights(v, 2, 3, 6, 7)),
          _mm256_hadd_ps(SumEights(v, 8, 9, 12, 13), SumEights(v, 10, 11, 14, 15))};
}

namespace simd_internal {
// The low byte of each lane, packed E4M3, times 2^8.
WHALEPOD_INLINE __m256 WidenPackedE4M3(__m256i x) {
  const __m256i top = _mm256_slli_epi32(_mm256_and_si256(x, _mm256_set1_epi32(0x87)), 24);
  const __m256i next = _mm256_slli_epi32(_mm256_and_si256(x, _mm256_set1_epi32(0x78)), 17);
  const __m256 f = _mm256_castsi256_ps(
      _mm256_or_si256(_mm256_or_si256(top, next), _mm256_set1_epi32(0x40000000)));
  // Exponent 0: the bits say 2 + m / 4 for m / 2, and -2 for NaN.
  const __m256i special = _mm256_cmpeq_epi32(
      _mm256_and_si256(x, _mm256_set1_epi32(kPackedE4M3Exponent)), _mm256_setzero_si256());
  if (__builtin_expect(_mm256_testz_si256(special, special), 1)) return f;
  const __m256 four = _mm256_or_ps(_mm256_and_ps(f, _mm256_set1_ps(-0.0f)), _mm256_set1_ps(4.0f));
  const __m256 fixed = _mm256_sub_ps(_mm256_add_ps(f, f), four);
  const __m256 nan = _mm256_cmp_ps(f, _mm256_set1_ps(-2.0f), _CMP_EQ_OQ);
  const __m256 chosen = _mm256_blendv_ps(fixed, _mm256_set1_ps(__builtin_nanf("")), nan);
  return _mm256_blendv_ps(f, chosen, _mm256_castsi256_ps(special));
}

// Eight (even, odd) pairs of 16-bit numbers.
template <DType type>
WHALEPOD_INLINE void WidenPairs(__m256i pairs, __m256* even, __m256* odd) {
  if constexpr (type == DType::kBF16) {
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    *odd = _mm256_castsi256_ps(
        _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u))));
  } else {
    const __m256i low = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
    const __m256i high = _mm256_srli_epi32(pairs, 16);
    *even = _mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
    *odd = _mm256_cvtph_ps(
        _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
  }
}
}  // namespace simd_internal

template <DType type>
WHALEPOD_INLINE void ExpandPair(const uint8_t* p, F32x16 even[2], F32x16 odd[2]) {
  if constexpr (type == DType::kF32) {
    const float* w = reinterpret_cast<const float*>(p);
    even[0] = Load(w);
    even[1] = Load(w + 16);
    odd[0] = Load(w + 32);
    odd[1] = Load(w + 48);
  } else if constexpr (type == DType::kF8E4M3) {
    __m256* evens[4] = {&even[0].lo, &even[1].lo, &even[0].hi, &even[1].hi};
    __m256* odds[4] = {&odd[0].lo, &odd[1].lo, &odd[0].hi, &odd[1].hi};
    for (int half = 0; half < 2; ++half) {
      const float* q = reinterpret_cast<const float*>(p + 32 * half);
      const __m128 a = _mm_loadu_ps(q);
      const __m128 b = _mm_loadu_ps(q + 4);
      // Two outputs' pairs are a dword; even ones belong to the first 16 outputs.
      const __m128i pairs[2] = {_mm_castps_si128(_mm_shuffle_ps(a, b, 0x88)),
                                _mm_castps_si128(_mm_shuffle_ps(a, b, 0xdd))};
      for (int part = 0; part < 2; ++part) {
        const __m256i wide = _mm256_cvtepu16_epi32(pairs[part]);
        *evens[2 * half + part] = simd_internal::WidenPackedE4M3(wide);
        *odds[2 * half + part] = simd_internal::WidenPackedE4M3(_mm256_srli_epi32(wide, 8));
      }
    }
  } else {
    for (int half = 0; half < 2; ++half) {
      const __m256i* q = reinterpret_cast<const __m256i*>(p + 64 * half);
      simd_internal::WidenPairs<type>(_mm256_loadu_si256(q), &even[half].lo, &odd[half].lo);
      simd_internal::WidenPairs<type>(_mm256_loadu_si256(q + 1), &even[half].hi, &odd[half].hi);
    }
  }
}

}  // namespace whalepod::cpu::avx2
