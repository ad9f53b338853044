// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11), 16 blocks at
// a time, and the Gumbel noise made of it; see "Random numbers" in docs/numbers.md. Include from
// kernels/cpu/<op>.cc only, as kernels/cpu/simd.h.
#pragma once

#include "kernels/cpu/math.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

// Replaces 16 counters (word w of block i is lane i of counter[w]) by their 16 random blocks.
WHALEPOD_INLINE void Philox4x32(uint32_t key0, uint32_t key1, I32x16 counter[4]) {
  const I32x16 multiplier0 = SetI(static_cast<int32_t>(0xD2511F53u));
  const I32x16 multiplier1 = SetI(static_cast<int32_t>(0xCD9E8D57u));
  for (int round = 0; round < 10; ++round) {
    I32x16 hi0, lo0, hi1, lo1;
    MulWide(multiplier0, counter[0], &hi0, &lo0);
    MulWide(multiplier1, counter[2], &hi1, &lo1);
    counter[0] = hi1 ^ counter[1] ^ SetI(static_cast<int32_t>(key0));
    counter[1] = lo1;
    counter[2] = hi0 ^ counter[3] ^ SetI(static_cast<int32_t>(key1));
    counter[3] = lo0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

namespace philox_internal {

// (w + 0.5) / 2^32 of unsigned words, rounded once.
WHALEPOD_INLINE F32x16 UnitInterval(I32x16 w) {
  const F32x16 high = ToFloat(ShiftRight<16>(w));
  const F32x16 low = ToFloat(w & SetI(0xffff)) + Set(0.5f);
  return Fma(high, Set(65536.0f), low) * Set(0x1p-32f);
}

}  // namespace philox_internal

// -log(-log(u)) for u = (w + 0.5) / 2^32. Above 3/4 log(u) is taken from 1 - u, which F32 holds to
// full precision where u itself would round to 1.
WHALEPOD_INLINE F32x16 GumbelNoise(I32x16 w) {
  const F32x16 u = philox_internal::UnitInterval(w);
  const F32x16 rest = philox_internal::UnitInterval(w ^ SetI(-1));
  const F32x16 from_u = Log(u);
  const F32x16 from_rest = math_internal::LogReduced(Neg(rest), Zero());
  return Neg(Log(Neg(Select(Le(rest, Set(0.25f)), from_rest, from_u))));
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
