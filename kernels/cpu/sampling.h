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

// The random words of ids [id, id + 64): of id + 4 i + w lane i of words[w]. id is a multiple of 4.
WHALEPOD_INLINE void MakeWords(const Noise& noise, int64_t id, I32x16 words[4]) {
  words[0] = SetI(static_cast<int32_t>(noise.position));
  words[1] = SetI(static_cast<int32_t>(noise.choice));
  words[2] = SetI(static_cast<int32_t>(id / 4)) + Iota();
  words[3] = SetI(static_cast<int32_t>(kPurposeSampling));
  Philox4x32(static_cast<uint32_t>(noise.seed), static_cast<uint32_t>(noise.seed >> 32), words);
}

// The noise of 64 ids, in their order.
WHALEPOD_INLINE void NoiseOf(const I32x16 words[4], float out[kBlock]) {
  float by_word[4][16];
  for (int w = 0; w < 4; ++w) Store(by_word[w], GumbelNoise(words[w]));
  for (int i = 0; i < kBlock; ++i) out[i] = by_word[i % 4][i / 4];
}

// No noise is above -log(2^-33).
constexpr float kMostNoise = 23;
// At [i]: words of noise above i / 2 are above it. With u = (word + 1/2) / 2^32 the noise
// -log(-log(u)) is at most -log(1 - u), so it is above t only where 1 - u < exp(-t). 0.01 is far
// more than the noise's rounding.
struct LeastWords {
  uint32_t above[2 * static_cast<int>(kMostNoise)];
};
constexpr LeastWords MakeLeastWords() {
  LeastWords least{};
  double rest = 0x1p32 * 1.01005016708416806;  // exp(0.01)
  for (uint32_t& word : least.above) {
    word = rest + 2 < 0x1p32 ? static_cast<uint32_t>(0x1p32 - rest - 2) : 0;
    rest *= 0.60653065971263342;  // exp(-1/2)
  }
  return least;
}
static constexpr LeastWords kLeastWords = MakeLeastWords();

// Whether one of 64 words is above `least`.
WHALEPOD_INLINE bool AnyAbove(const I32x16 words[4], uint32_t least) {
  const I32x16 sign = SetI(INT32_MIN);
  const I32x16 limit = SetI(static_cast<int32_t>(least ^ 0x80000000u));
  return Any(Or(Or(GtI(words[0] ^ sign, limit), GtI(words[1] ^ sign, limit)),
                Or(GtI(words[2] ^ sign, limit), GtI(words[3] ^ sign, limit))));
}

// The noise of ids [id, id + 64), of which `best_logit` is the best (or NaN); false if none of them
// can beat the best one so far: most blocks, once there is a good one.
WHALEPOD_INLINE bool MakeNoise(const Noise& noise, int64_t id, float best_logit, float temperature,
                               const SampleCandidate& best, float out[kBlock]) {
  // The noise that it takes. NaN or -inf, which no test below passes, before there is a best.
  const float needed = best.score - best_logit / temperature;
  if (needed >= kMostNoise) return false;
  I32x16 words[4];
  MakeWords(noise, id, words);
  // With less than 2 one of 64 nearly always has it.
  if (needed >= 2 && !AnyAbove(words, kLeastWords.above[static_cast<int>(2 * needed)]))
    return false;
  NoiseOf(words, out);
  return true;
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
    const float best_logit = SegmentMax(logits + i, n - i < kBlock ? n - i : kBlock);
    float gumbel[kBlock];
    if (!MakeNoise(noise, id0 + i, best_logit, temperature, *best, gumbel)) continue;
    for (int64_t j = i; j < i + kBlock && j < n; j += 16) {
      const F32x16 scores = LoadLogits(logits + j, n - j) / Set(temperature) + Load(gumbel + j - i);
      Challenge(scores, logits + j, id0 + j, best);
    }
  }
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
