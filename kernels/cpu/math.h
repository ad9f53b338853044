// exp, log, sigmoid and silu over 16 lanes: one polynomial each, the same bits on every path. Each
// is within 2 ulp of the true value. Include from kernels/cpu/<op>.cc only, as kernels/cpu/simd.h.
#pragma once

#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace math_internal {

// ln 2 in two parts; multiples of the first by an integer below 2^14 are exact.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;

// x * 2^n for -252 <= n <= 254, rounded once (also into the denormals): the first factor keeps x
// normal.
WHALEPOD_INLINE F32x16 ScaleByPowerOfTwo(F32x16 x, I32x16 n) {
  const I32x16 half = ShiftRightArith<1>(n);
  const I32x16 rest = n - half;
  const F32x16 first = AsFloat(ShiftLeft<23>(half + SetI(127)));
  const F32x16 second = AsFloat(ShiftLeft<23>(rest + SetI(127)));
  return x * first * second;
}

// log((1 + f) * 2^e) for sqrt(1/2) - 1 <= f < sqrt(2) - 1 (the coefficients are Cephes' logf).
WHALEPOD_INLINE F32x16 LogReduced(F32x16 f, F32x16 e) {
  const F32x16 square = f * f;
  F32x16 p = Set(7.0376836292e-2f);
  p = Fma(p, f, Set(-1.1514610310e-1f));
  p = Fma(p, f, Set(1.1676998740e-1f));
  p = Fma(p, f, Set(-1.2420140846e-1f));
  p = Fma(p, f, Set(1.4249322787e-1f));
  p = Fma(p, f, Set(-1.6668057665e-1f));
  p = Fma(p, f, Set(2.0000714765e-1f));
  p = Fma(p, f, Set(-2.4999993993e-1f));
  p = Fma(p, f, Set(3.3333331174e-1f));
  F32x16 rest = f * square * p;
  rest = Fma(e, Set(kLn2Low), rest);
  rest = Fma(square, Set(-0.5f), rest);
  return Fma(e, Set(kLn2High), f + rest);
}

}  // namespace math_internal

// exp(-inf) = +0; below -103.98 +0, denormal results are exact to rounding; above 88.73 +inf.
WHALEPOD_INLINE F32x16 Exp(F32x16 x) {
  const F32x16 clamped = Min(Max(x, Set(-110.0f)), Set(90.0f));
  const I32x16 n = RoundToInt(clamped * Set(1.44269504089f));
  const F32x16 nf = ToFloat(n);
  F32x16 r = Fma(nf, Set(-math_internal::kLn2High), clamped);
  r = Fma(nf, Set(-math_internal::kLn2Low), r);
  // Cephes' expf.
  F32x16 p = Set(1.9875691500e-4f);
  p = Fma(p, r, Set(1.3981999507e-3f));
  p = Fma(p, r, Set(8.3334519073e-3f));
  p = Fma(p, r, Set(4.1665795894e-2f));
  p = Fma(p, r, Set(1.6666665459e-1f));
  p = Fma(p, r, Set(5.0000001201e-1f));
  p = Fma(p, r * r, r) + Set(1.0f);
  return Select(IsNan(x), x, math_internal::ScaleByPowerOfTwo(p, n));
}

// log(+-0) = -inf, log(+inf) = +inf, NaN below zero; denormals are numbers like others.
WHALEPOD_INLINE F32x16 Log(F32x16 x) {
  const M16 tiny = Lt(x, Set(0x1p-126f));
  const I32x16 bits = AsInt(Select(tiny, x * Set(0x1p25f), x));
  const I32x16 sqrt_half = SetI(0x3f3504f3);
  const I32x16 above = bits - sqrt_half;
  const I32x16 exponent = ShiftRightArith<23>(above) - SelectI(tiny, SetI(25), SetI(0));
  const F32x16 mantissa = AsFloat((above & SetI(0x7fffff)) + sqrt_half);
  F32x16 result = math_internal::LogReduced(mantissa - Set(1.0f), ToFloat(exponent));
  const F32x16 infinity = Set(__builtin_inff());
  result = Select(Eq(x, infinity), infinity, result);
  result = Select(Eq(x, Zero()), Neg(infinity), result);
  return Select(Ge(x, Zero()), result, Set(__builtin_nanf("")));
}

WHALEPOD_INLINE F32x16 Sigmoid(F32x16 x) { return Set(1.0f) / (Set(1.0f) + Exp(Neg(x))); }

// x * sigmoid(x), with one rounding less.
WHALEPOD_INLINE F32x16 Silu(F32x16 x) { return x / (Set(1.0f) + Exp(Neg(x))); }

// The first n lanes from p, `fill` in the others.
template <typename T>
WHALEPOD_INLINE F32x16 LoadPartialOr(const T* p, int n, F32x16 fill) {
  return Select(GtI(SetI(n), Iota()), LoadPartial(p, n), fill);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
