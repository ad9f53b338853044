#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/philox.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

constexpr uint32_t kPurposeSampling = 1;
constexpr int64_t kBlock = 64;  // ids whose noise is made at once: 16 counters of 4 words

WHALEPOD_INLINE float Infinity() { return __builtin_inff(); }
WHALEPOD_INLINE int Lanes(int64_t left) { return left < 16 ? static_cast<int>(left) : 16; }
WHALEPOD_INLINE F32x16 LoadLogits(const float* p, int64_t left) {
  return left >= 16 ? Load(p) : LoadPartialOr(p, static_cast<int>(left), Set(-Infinity()));
}

// Largest of n logits, NaN if one is NaN, -inf if n is 0.
float SegmentMax(const float* logits, int64_t n) {
  F32x16 max = Set(-Infinity());
  M16 nan = Lt(Zero(), Zero());
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 x = LoadLogits(logits + i, n - i);
    nan = Or(nan, IsNan(x));
    max = Max(x, max);
  }
  return Any(nan) ? __builtin_nanf("") : ReduceMax(max);
}

float SegmentSum(const float* logits, int64_t n, float max) {
  if (max == -Infinity()) return 0;
  F32x16 sum = Zero();
  for (int64_t i = 0; i < n; i += 16) {
    sum += Exp(LoadLogits(logits + i, n - i) - Set(max));
  }
  return ReduceTree(sum);
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
void FindBest(const float* logits, int64_t n, int64_t id0, float temperature, const Noise& noise,
              SampleCandidate* best) {
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

// The top_k largest, kept sorted; `count` of them are filled.
struct TopList {
  SampleCandidate* entries;
  int64_t capacity;
  int64_t count;
};

void Insert(float logit, int64_t id, TopList* list) {
  int64_t at = list->count < list->capacity ? list->count++ : list->capacity - 1;
  for (; at > 0 && list->entries[at - 1].logit < logit; --at) {
    list->entries[at] = list->entries[at - 1];
  }
  list->entries[at] = {logit, logit, static_cast<int32_t>(id)};
}

void FindTop(const float* logits, int64_t n, int64_t id0, TopList* list) {
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 x = LoadLogits(logits + i, n - i);
    const bool full = list->count == list->capacity;
    uint32_t wanted =
        Bits(full ? Gt(x, Set(list->entries[list->capacity - 1].logit)) : Not(IsNan(x)));
    wanted &= (1u << Lanes(n - i)) - 1;
    for (; wanted != 0; wanted &= wanted - 1) {
      const int lane = __builtin_ctz(wanted);
      const float logit = logits[i + lane];
      if (list->count < list->capacity || logit > list->entries[list->capacity - 1].logit) {
        Insert(logit, id0 + i + lane, list);
      }
    }
  }
}

void SampleRow(const SampleArgs& args, int64_t row) {
  const int64_t segment_ids = VocabSegment(args.vocab);
  const float* logits = args.logits + row * args.ld;
  SampleCandidate* top = args.top_k > 0 ? args.top + row * args.top_k : nullptr;
  const SampleCandidate none = {-Infinity(), -Infinity(), -1};
  for (int64_t i = 0; i < args.top_k; ++i) top[i] = none;
  SampleCandidate best = none;
  TopList list = {top, args.top_k, 0};
  const float temperature = args.temperature[row];
  Noise noise = {};
  if (temperature != 0) noise = {args.seed[row], args.position[row], args.choice[row]};
  for (int64_t s = 0; s < args.segments; ++s) {
    const int64_t id0 = (args.segment0 + s) * segment_ids;
    int64_t n = args.vocab - id0;
    n = n < 0 ? 0 : n < segment_ids ? n : segment_ids;
    // An empty segment may lie behind the row; a slice without ids has no row.
    const float* segment = n > 0 ? logits + s * segment_ids : logits;
    const float max = SegmentMax(segment, n);
    args.segment_max[row * args.segments + s] = max;
    args.segment_sum[row * args.segments + s] = SegmentSum(segment, n, max);
    FindBest(segment, n, id0, temperature, noise, &best);
    if (args.top_k > 0) FindTop(segment, n, id0, &list);
  }
  args.best[row] = best;
}

}  // namespace

void Sample(const SampleArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) SampleRow(args, row);
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
