// The portable path of kernels/cpu/simd.h: arrays and loops.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"
#include "kernels/packing.h"

namespace whalepod::cpu::portable {

struct F32x16 {
  float v[16];
};
struct I32x16 {
  uint32_t v[16];
};
struct M16 {
  uint32_t bits;
};

namespace simd_internal {

template <typename Fn>
WHALEPOD_INLINE F32x16 MapF(Fn fn) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
  return r;
}
template <typename Fn>
WHALEPOD_INLINE I32x16 MapI(Fn fn) {
  I32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
  return r;
}
template <typename Fn>
WHALEPOD_INLINE M16 MapM(Fn fn) {
  M16 r{0};
  for (int i = 0; i < 16; ++i) r.bits |= (fn(i) ? 1u : 0u) << i;
  return r;
}
WHALEPOD_INLINE float FromBits(uint32_t bits) { return __builtin_bit_cast(float, bits); }
WHALEPOD_INLINE uint32_t ToBits(float x) { return __builtin_bit_cast(uint32_t, x); }
WHALEPOD_INLINE float DecodeBF16(uint16_t bits) {
  return FromBits(static_cast<uint32_t>(bits) << 16);
}
WHALEPOD_INLINE float DecodeF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {
    const uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
    return FromBits(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13) | quiet);
  }
  return FromBits(ToBits(FromBits(magnitude << 13) * 0x1p112f) | sign);
}
WHALEPOD_INLINE float DecodeE4M3(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  const uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7fu) return FromBits(sign | 0x7fc00000u);
  return FromBits(ToBits(FromBits(magnitude << 20) * 0x1p120f) | sign);
}
WHALEPOD_INLINE uint16_t EncodeBF16(float x) {
  uint32_t bits = ToBits(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}

}  // namespace simd_internal

#define WHALEPOD_MAP_F(expr) simd_internal::MapF([&](int i) -> float { return (expr); })
#define WHALEPOD_MAP_I(expr) simd_internal::MapI([&](int i) -> uint32_t { return (expr); })
#define WHALEPOD_MAP_M(expr) simd_internal::MapM([&](int i) -> bool { return (expr); })

WHALEPOD_INLINE F32x16 Zero() { return WHALEPOD_MAP_F(0.0f); }
WHALEPOD_INLINE F32x16 Set(float x) { return WHALEPOD_MAP_F(x); }
WHALEPOD_INLINE I32x16 SetI(int32_t x) { return WHALEPOD_MAP_I(static_cast<uint32_t>(x)); }
WHALEPOD_INLINE I32x16 Iota() { return WHALEPOD_MAP_I(static_cast<uint32_t>(i)); }

WHALEPOD_INLINE F32x16 LoadPartial(const float* p, int n) {
  return WHALEPOD_MAP_F(i < n ? p[i] : 0.0f);
}
WHALEPOD_INLINE F32x16 LoadPartial(const BF16* p, int n) {
  return WHALEPOD_MAP_F(i < n ? simd_internal::DecodeBF16(p[i].bits) : 0.0f);
}
WHALEPOD_INLINE F32x16 Load(const float* p) { return LoadPartial(p, 16); }
WHALEPOD_INLINE F32x16 Load(const BF16* p) { return LoadPartial(p, 16); }
WHALEPOD_INLINE F32x16 LoadF16(const uint16_t* p) {
  return WHALEPOD_MAP_F(simd_internal::DecodeF16(p[i]));
}
WHALEPOD_INLINE I32x16 LoadI(const int32_t* p) {
  return WHALEPOD_MAP_I(static_cast<uint32_t>(p[i]));
}
WHALEPOD_INLINE void StoreI(int32_t* p, I32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int32_t>(a.v[i]);
}
WHALEPOD_INLINE void StorePartial(float* p, F32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
WHALEPOD_INLINE void StorePartial(BF16* p, F32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i].bits = simd_internal::EncodeBF16(a.v[i]);
}
WHALEPOD_INLINE void Store(float* p, F32x16 a) { StorePartial(p, a, 16); }
WHALEPOD_INLINE void Store(BF16* p, F32x16 a) { StorePartial(p, a, 16); }

WHALEPOD_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return WHALEPOD_MAP_F(a.v[i] + b.v[i]); }
WHALEPOD_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return WHALEPOD_MAP_F(a.v[i] - b.v[i]); }
WHALEPOD_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return WHALEPOD_MAP_F(a.v[i] * b.v[i]); }
WHALEPOD_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return WHALEPOD_MAP_F(a.v[i] / b.v[i]); }
WHALEPOD_INLINE F32x16 Fma(F32x16 a, F32x16 b, F32x16 c) {
  return WHALEPOD_MAP_F(__builtin_fmaf(a.v[i], b.v[i], c.v[i]));
}
WHALEPOD_INLINE F32x16 Neg(F32x16 a) { return WHALEPOD_MAP_F(-a.v[i]); }
WHALEPOD_INLINE F32x16 Abs(F32x16 a) { return WHALEPOD_MAP_F(__builtin_fabsf(a.v[i])); }
WHALEPOD_INLINE F32x16 Sqrt(F32x16 a) { return WHALEPOD_MAP_F(__builtin_sqrtf(a.v[i])); }
WHALEPOD_INLINE F32x16 Max(F32x16 a, F32x16 b) {
  return WHALEPOD_MAP_F(a.v[i] > b.v[i] ? a.v[i] : b.v[i]);
}
WHALEPOD_INLINE F32x16 Min(F32x16 a, F32x16 b) {
  return WHALEPOD_MAP_F(a.v[i] < b.v[i] ? a.v[i] : b.v[i]);
}

WHALEPOD_INLINE M16 Lt(F32x16 a, F32x16 b) { return WHALEPOD_MAP_M(a.v[i] < b.v[i]); }
WHALEPOD_INLINE M16 Le(F32x16 a, F32x16 b) { return WHALEPOD_MAP_M(a.v[i] <= b.v[i]); }
WHALEPOD_INLINE M16 Gt(F32x16 a, F32x16 b) { return WHALEPOD_MAP_M(a.v[i] > b.v[i]); }
WHALEPOD_INLINE M16 Ge(F32x16 a, F32x16 b) { return WHALEPOD_MAP_M(a.v[i] >= b.v[i]); }
WHALEPOD_INLINE M16 Eq(F32x16 a, F32x16 b) { return WHALEPOD_MAP_M(a.v[i] == b.v[i]); }
WHALEPOD_INLINE M16 IsNan(F32x16 a) { return WHALEPOD_MAP_M(a.v[i] != a.v[i]); }
WHALEPOD_INLINE M16 EqI(I32x16 a, I32x16 b) { return WHALEPOD_MAP_M(a.v[i] == b.v[i]); }
WHALEPOD_INLINE M16 GtI(I32x16 a, I32x16 b) {
  return WHALEPOD_MAP_M(static_cast<int32_t>(a.v[i]) > static_cast<int32_t>(b.v[i]));
}
WHALEPOD_INLINE F32x16 Select(M16 m, F32x16 a, F32x16 b) {
  return WHALEPOD_MAP_F((m.bits >> i) & 1u ? a.v[i] : b.v[i]);
}
WHALEPOD_INLINE I32x16 SelectI(M16 m, I32x16 a, I32x16 b) {
  return WHALEPOD_MAP_I((m.bits >> i) & 1u ? a.v[i] : b.v[i]);
}
WHALEPOD_INLINE M16 And(M16 a, M16 b) { return {a.bits & b.bits}; }
WHALEPOD_INLINE M16 Or(M16 a, M16 b) { return {a.bits | b.bits}; }
WHALEPOD_INLINE M16 Not(M16 a) { return {~a.bits & 0xffffu}; }
WHALEPOD_INLINE bool Any(M16 m) { return m.bits != 0; }
WHALEPOD_INLINE uint32_t Bits(M16 m) { return m.bits; }

WHALEPOD_INLINE I32x16 operator+(I32x16 a, I32x16 b) { return WHALEPOD_MAP_I(a.v[i] + b.v[i]); }
WHALEPOD_INLINE I32x16 operator-(I32x16 a, I32x16 b) { return WHALEPOD_MAP_I(a.v[i] - b.v[i]); }
WHALEPOD_INLINE I32x16 operator&(I32x16 a, I32x16 b) { return WHALEPOD_MAP_I(a.v[i] & b.v[i]); }
WHALEPOD_INLINE I32x16 operator|(I32x16 a, I32x16 b) { return WHALEPOD_MAP_I(a.v[i] | b.v[i]); }
WHALEPOD_INLINE I32x16 operator^(I32x16 a, I32x16 b) { return WHALEPOD_MAP_I(a.v[i] ^ b.v[i]); }
WHALEPOD_INLINE I32x16 MulLo(I32x16 a, I32x16 b) { return WHALEPOD_MAP_I(a.v[i] * b.v[i]); }
template <int n>
WHALEPOD_INLINE I32x16 ShiftLeft(I32x16 a) {
  return WHALEPOD_MAP_I(a.v[i] << n);
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftRight(I32x16 a) {
  return WHALEPOD_MAP_I(a.v[i] >> n);
}
template <int n>
WHALEPOD_INLINE I32x16 ShiftRightArith(I32x16 a) {
  return WHALEPOD_MAP_I(static_cast<uint32_t>(static_cast<int32_t>(a.v[i]) >> n));
}
WHALEPOD_INLINE void MulWide(I32x16 a, I32x16 b, I32x16* hi, I32x16* lo) {
  for (int i = 0; i < 16; ++i) {
    const uint64_t product = static_cast<uint64_t>(a.v[i]) * b.v[i];
    hi->v[i] = static_cast<uint32_t>(product >> 32);
    lo->v[i] = static_cast<uint32_t>(product);
  }
}
WHALEPOD_INLINE I32x16 AsInt(F32x16 a) { return WHALEPOD_MAP_I(simd_internal::ToBits(a.v[i])); }
WHALEPOD_INLINE F32x16 AsFloat(I32x16 a) { return WHALEPOD_MAP_F(simd_internal::FromBits(a.v[i])); }
WHALEPOD_INLINE F32x16 ToFloat(I32x16 a) {
  return WHALEPOD_MAP_F(static_cast<float>(static_cast<int32_t>(a.v[i])));
}
// |a| must be below 2^31. Nearest even, with the default rounding mode.
WHALEPOD_INLINE I32x16 RoundToInt(F32x16 a) {
  return WHALEPOD_MAP_I(static_cast<uint32_t>(static_cast<int32_t>(__builtin_rintf(a.v[i]))));
}

WHALEPOD_INLINE float ReduceMax(F32x16 a) {
  float max = a.v[0];
  for (int i = 1; i < 16; ++i) max = a.v[i] > max ? a.v[i] : max;
  return max + 0.0f;
}

WHALEPOD_INLINE float ReduceTree(F32x16 a) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int i = 0; i < width; ++i) a.v[i] = a.v[2 * i] + a.v[2 * i + 1];
  }
  return a.v[0];
}

WHALEPOD_INLINE F32x16 ReduceTree16(const F32x16 v[16]) { return WHALEPOD_MAP_F(ReduceTree(v[i])); }

template <DType type>
WHALEPOD_INLINE void ExpandPair(const uint8_t* p, F32x16 even[2], F32x16 odd[2]) {
  for (int i = 0; i < 32; ++i) {
    float e, o;
    if constexpr (type == DType::kF32) {
      e = reinterpret_cast<const float*>(p)[i];
      o = reinterpret_cast<const float*>(p)[32 + i];
    } else if constexpr (type == DType::kF8E4M3) {
      e = simd_internal::DecodeE4M3(UnpackedE4M3(p[PackedE4M3At(i, 0)])) * 0x1p8f;
      o = simd_internal::DecodeE4M3(UnpackedE4M3(p[PackedE4M3At(i, 1)])) * 0x1p8f;
    } else if constexpr (type == DType::kBF16) {
      e = simd_internal::DecodeBF16(reinterpret_cast<const uint16_t*>(p)[2 * i]);
      o = simd_internal::DecodeBF16(reinterpret_cast<const uint16_t*>(p)[2 * i + 1]);
    } else {
      e = simd_internal::DecodeF16(reinterpret_cast<const uint16_t*>(p)[2 * i]);
      o = simd_internal::DecodeF16(reinterpret_cast<const uint16_t*>(p)[2 * i + 1]);
    }
    even[i / 16].v[i % 16] = e;
    odd[i / 16].v[i % 16] = o;
  }
}

#undef WHALEPOD_MAP_F
#undef WHALEPOD_MAP_I
#undef WHALEPOD_MAP_M

}  // namespace whalepod::cpu::portable
