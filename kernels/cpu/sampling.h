// What both sampling ops share: the noise of a row and the search for its best id. Include from
// kernels/cpu/<op>.cc only, as kernels/cpu/simd.h.
#pragma once

#include "kernels/cpu/math.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace whalepod::cpu::WHALEPOD_ISA {

constexpr uint32_t kPurposeSampling = 1;
constexpr int64_t kBlock = 64;  // ids whose noise is made at once: 16 counters of 4 words
constexpr SampleCandidate kNoCandidate = {-__builtin_inff(), -__builtin_inff(), -1};

WHALEPOD_INLINE float Infinity() { return __builtin_inff(); }
WHALEPOD_INLINE int Lanes(int64_t left) { return left < 16 ? static_cast<int>(left) : 16; }
WHALEPOD_INLINE F32x16 LoadLogits(const float* p, int64_t left) {
  return left >= 16 ? Load(p) : LoadPartialOr(p, static_cast<int>(left), Set(-Infinity()));
}

// Largest of n logits, NaN if one is NaN, -inf if n is 0.
static float SegmentMax(const float* logits, int64_t n) {
  F32x16 max = Set(-Infinity());
  M16 nan = Lt(Zero(), Zero());
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 x = LoadLogits(logits + i, n - i);
    nan = Or(nan, IsNan(x));
    max = Max(x, max);
  }
  return Any(nan) ? __builtin_nanf("") : ReduceMax(max);
}

// What makes one row's noise.
struct Noise {
  uint64_t seed;
  uint32_t position;
  uint32_t choice;
};

// The noise of ids [id, id + 64); id is a multiple of 4.
WHALEPOD_INLINE void MakeNoise(const Noise& noise, int64_t id, float out[kBlock]) {
  I32x16 words[4] = {
      SetI(static_cast<int32_t>(noise.position)), SetI(static_cast<int32_t>(noise.choice)),
      SetI(static_cast<int32_t>(id / 4)) + Iota(), SetI(static_cast<int32_t>(kPurposeSampling))};
  Philox4x32(static_cast<uint32_t>(noise.seed), static_cast<uint32_t>(noise.seed >> 32), words);
  float by_word[4][16];
  for (int w = 0; w < 4; ++w) Store(by_word[w], GumbelNoise(words[w]));
  for (int i = 0; i < kBlock; ++i) out[i] = by_word[i % 4][i / 4];
}

// Keeps the first of the best among 16 scores (ids ascending from `id`). NaN and -inf never win.
WHALEPOD_INLINE void Challenge(F32x16 scores, const float* logits, int64_t id,
                               SampleCandidate* best) {
  uint32_t better = Bits(Gt(scores, Set(best->score)));
  if (__builtin_expect(better == 0, 1)) return;
  float lanes[16];
  Store(lanes, scores);
  for (; better != 0; better &= better - 1) {
    const int lane = __builtin_ctz(better);
    if (!(lanes[lane] > best->score)) continue;
    *best = {lanes[lane], logits[lane], static_cast<int32_t>(id + lane)};
  }
}

// Best of n logits with ids from id0, a multiple of 4.
static void FindBest(const float* logits, int64_t n, int64_t id0, float temperature,
                     const Noise& noise, SampleCandidate* best) {
  if (temperature == 0) {
    for (int64_t i = 0; i < n; i += 16) {
      Challenge(LoadLogits(logits + i, n - i), logits + i, id0 + i, best);
    }
    return;
  }
  for (int64_t i = 0; i < n; i += kBlock) {
    float gumbel[kBlock];
    MakeNoise(noise, id0 + i, gumbel);
    for (int64_t j = i; j < i + kBlock && j < n; j += 16) {
      const F32x16 scores = LoadLogits(logits + j, n - j) / Set(temperature) + Load(gumbel + j - i);
      Challenge(scores, logits + j, id0 + j, best);
    }
  }
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
