// Whole rows whose choice is narrowed. Which ids are kept is decided exactly: the probability of an
// id relative to the best one's is exp in double, rounded to a multiple of 2^-45, and integers add
// up to the same in any order. No id is sorted: the last kept logit is found by bins and then by
// selection within one bin.
#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/sampling.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

constexpr int kBins = 1024;
// At least: 1024 bins reach 32 nats down, 2^-46 of the best's share.
constexpr float kBinsPerNat = 32;
constexpr int kSums = 4;         // of a bin, added up by turns, so that one bin's sums wait less
constexpr int64_t kChunk = 256;  // logits whose bins and shares are held at once

// Kept are logits above `least` and the first `ties` ids of those equal to it.
struct Cut {
  float least;
  int64_t ties;
};
constexpr Cut kKeepAll = {-__builtin_inff(), 0};

WHALEPOD_INLINE bool Tighter(const Cut& a, const Cut& b) {
  return a.least > b.least || (a.least == b.least && a.ties < b.ties);
}

// exp(x) for x <= 0 within 2 ulp, 0 (far below 2^-46) from -60 on. Multiplications and additions
// only, so that a loop of it is the same on every path.
WHALEPOD_INLINE double ExpOfNegative(double x) {
  constexpr double kMagic = 0x1.8p52;  // rounds to an integer, which stands in the low bits then
  x = x < -60.0 ? -60.0 : x;
  const double shifted = x * 1.44269504088896340736 + kMagic;
  const double n = shifted - kMagic;
  // ln 2 in two parts (fdlibm's); n times the first is exact.
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  // Taylor to r^13 / 13! for |r| <= ln 2 / 2: what is left out is below 2^-58.
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const uint64_t exponent = __builtin_bit_cast(uint64_t, shifted) << 52;
  return __builtin_bit_cast(double, __builtin_bit_cast(uint64_t, p) + exponent);
}

// What a logit counts for: 1 for top-k; for top-p its probability relative to the best one's, in
// units of 2^-45.
struct Measure {
  bool by_share;
  double max;
  double inverse_temperature;
};

WHALEPOD_INLINE uint64_t Share(float x, double max, double inverse_temperature) {
  const double share = ExpOfNegative((static_cast<double>(x) - max) * inverse_temperature) * 0x1p45;
  // Adding 2^52 rounds to an integer and leaves it in the low bits.
  return __builtin_bit_cast(uint64_t, share + 0x1p52) & 0xfffffffffffffu;
}

WHALEPOD_INLINE uint64_t MeasureOf(float x, const Measure& measure) {
  return measure.by_share ? Share(x, measure.max, measure.inverse_temperature) : 1;
}

// Shares.
void MeasureAll(const float* x, int64_t n, const Measure& measure, uint64_t* out) {
  const double max = measure.max, inverse = measure.inverse_temperature;
  for (int64_t i = 0; i < n; ++i) out[i] = Share(x[i], max, inverse);
}

// The bin of each logit: 0 for the best ones, rising as logits fall.
void BinsOf(const float* x, int64_t n, float max, float scale, int32_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    float bin = (max - x[i]) * scale;
    bin = bin < kBins - 1 ? bin : kBins - 1;
    out[i] = static_cast<int32_t>(bin);
  }
}

// Adds what each of m logits measures to one of its bin's sums.
template <typename Fn>
WHALEPOD_INLINE void AddUp(const int32_t* bins, int64_t m, const Fn& measure,
                           uint64_t sums[kSums][kBins]) {
  int64_t j = 0;
  for (; j + kSums <= m; j += kSums) {
    for (int k = 0; k < kSums; ++k) sums[k][bins[j + k]] += measure(j + k);
  }
  for (; j < m; ++j) sums[0][bins[j]] += measure(j);
}

// The lowest logit above -inf, 0 if there is none.
float LowestOf(const float* x, int64_t n) {
  F32x16 most = Set(-Infinity());
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 logits = LoadLogits(x + i, n - i);
    const M16 counts = Gt(logits, Set(-Infinity()));
    most = Max(most, Select(counts, Zero() - logits, Set(-Infinity())));
  }
  const float lowest = ReduceMax(most);
  return lowest > -Infinity() ? -lowest : 0;
}

// How many bins a unit of logits has: those of a flat row, `range` from the best to the lowest, are
// spread over all of them.
float BinScale(const Measure& measure, float range) {
  constexpr float kMost = 1e30f;  // no product of a difference of logits with it is NaN
  const float least = measure.by_share
                          ? kBinsPerNat * static_cast<float>(measure.inverse_temperature)
                          : kBinsPerNat;
  const float spread = range > 0 ? (kBins - 1) / range : 0;
  const float scale = spread > least ? spread : least;
  return scale < kMost ? scale : kMost;
}

// What of `total` the best logits must measure: `part`, or the whole if that rounds to it.
uint64_t TargetOf(double part, uint64_t total) {
  const auto target = static_cast<uint64_t>(__builtin_ceil(part * static_cast<double>(total)));
  return target < total ? target : total;
}

// The cut at `logit` that keeps as many of those equal to it as measure at least `target`.
Cut CutAt(float logit, const Measure& measure, uint64_t target) {
  const uint64_t each = MeasureOf(logit, measure);
  return {logit, static_cast<int64_t>((target + each - 1) / each)};
}

// Select's cut by shares where all logits above -inf are `max`.
Cut SelectOfEqual(const float* x, int64_t n, const Measure& measure, float max, double part) {
  int64_t equal = 0;
  for (int64_t i = 0; i < n; ++i) equal += x[i] == max;
  const uint64_t total = MeasureOf(max, measure) * static_cast<uint64_t>(equal);
  return CutAt(max, measure, TargetOf(part, total));
}

// The cut in list[0, n), which it reorders: the best logits that together measure at least
// `target`, which is above 0 and at most what all measure.
Cut SelectInList(float* list, int64_t n, const Measure& measure, uint64_t target) {
  while (n > 0) {
    const float a = list[0], b = list[n / 2], c = list[n - 1];
    const float low = a < b ? a : b, high = a < b ? b : a;
    const float pivot = c < low ? low : c > high ? high : c;
    // [0, above) > pivot, [above, at) == pivot, [below, n) < pivot
    int64_t above = 0, at = 0, below = n;
    uint64_t measured = 0;
    while (at < below) {
      const float x = list[at];
      if (x > pivot) {
        measured += MeasureOf(x, measure);
        list[at++] = list[above];
        list[above++] = x;
      } else if (x < pivot) {
        list[at] = list[--below];
        list[below] = x;
      } else {
        ++at;
      }
    }
    if (target <= measured) {
      n = above;
      continue;
    }
    target -= measured;
    const uint64_t each = MeasureOf(pivot, measure);
    const uint64_t equal = each * static_cast<uint64_t>(at - above);
    if (target <= equal) {
      // An id at -inf is never kept, whatever there is room for.
      if (pivot == -Infinity()) return kKeepAll;
      return CutAt(pivot, measure, target);
    }
    target -= equal;
    list += at;
    n -= at;
  }
  return kKeepAll;
}

// Calls fn(sixteen logits, those of them that are in the bin) for all of x[0, n), in order.
template <typename Fn>
WHALEPOD_INLINE void ForBin(const float* x, int64_t n, float max, float scale, int32_t bin,
                            const Fn& fn) {
  int32_t bins[kChunk];
  for (int64_t i = 0; i < n; i += kChunk) {
    const int64_t m = n - i < kChunk ? n - i : kChunk;
    BinsOf(x + i, m, max, scale, bins);
    for (int64_t j = m; j % 16 != 0; ++j) bins[j] = -1;
    for (int64_t j = 0; j < m; j += 16) {
      fn(LoadLogits(x + i + j, m - j), EqI(LoadI(bins + j), SetI(bin)));
    }
  }
}

// The logit of all of a bin's, -inf if they differ.
float OnlyOneOf(const float* x, int64_t n, float max, float scale, int32_t bin) {
  F32x16 low = Set(Infinity()), high = Set(-Infinity());
  ForBin(x, n, max, scale, bin, [&](F32x16 logits, M16 counts) {
    low = Min(low, Select(counts, logits, Set(Infinity())));
    high = Max(high, Select(counts, logits, Set(-Infinity())));
  });
  const float lowest = -ReduceMax(Zero() - low), highest = ReduceMax(high);
  return lowest == highest ? lowest : -Infinity();
}

// The cut in x[0, n) where the best logits measure at least `count` (top-k) or `part` of what all
// do (top-p). `list`: room for n; may be x itself, which is then lost.
Cut Select(const float* x, int64_t n, const Measure& measure, float max, int64_t count, double part,
           float* list) {
  const float range = max - LowestOf(x, n);
  if (range == 0 && measure.by_share) return SelectOfEqual(x, n, measure, max, part);
  const float scale = BinScale(measure, range);
  uint64_t sums[kSums][kBins] = {};
  uint64_t measures[kChunk];
  int32_t bins[kChunk];
  for (int64_t i = 0; i < n; i += kChunk) {
    const int64_t m = n - i < kChunk ? n - i : kChunk;
    BinsOf(x + i, m, max, scale, bins);
    if (measure.by_share) {
      MeasureAll(x + i, m, measure, measures);
      AddUp(
          bins, m, [&measures](int64_t j) { return measures[j]; }, sums);
    } else {
      AddUp(
          bins, m, [](int64_t) { return uint64_t{1}; }, sums);
    }
  }
  uint64_t* const totals = sums[0];
  for (int64_t bin = 0; bin < kBins; ++bin) {
    for (int k = 1; k < kSums; ++k) totals[bin] += sums[k][bin];
  }
  uint64_t target = static_cast<uint64_t>(count);
  if (measure.by_share) {
    uint64_t total = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) total += totals[bin];
    target = TargetOf(part, total);
  }
  int32_t bin = 0;
  while (bin < kBins && target > totals[bin]) target -= totals[bin++];
  if (bin == kBins) return kKeepAll;
  // Many equal ones need no list.
  if (const float only = OnlyOneOf(x, n, max, scale, bin); only > -Infinity()) {
    return CutAt(only, measure, target);
  }
  int64_t listed = 0;
  ForBin(x, n, max, scale, bin,
         [&](F32x16 logits, M16 counts) { listed += Compress(logits, counts, list + listed); });
  return SelectInList(list, listed, measure, target);
}

constexpr int32_t kBitOfLane[16] = {1 << 0,  1 << 1,  1 << 2,  1 << 3, 1 << 4,  1 << 5,
                                    1 << 6,  1 << 7,  1 << 8,  1 << 9, 1 << 10, 1 << 11,
                                    1 << 12, 1 << 13, 1 << 14, 1 << 15};

// Lanes of x that the cut keeps; ids ascend over calls.
WHALEPOD_INLINE M16 Kept(F32x16 x, Cut* cut) {
  const M16 above = Gt(x, Set(cut->least));
  const M16 equal = Eq(x, Set(cut->least));
  if (__builtin_expect(!Any(equal), 1)) return above;
  const auto ties = static_cast<int64_t>(__builtin_popcount(Bits(equal)));
  if (ties <= cut->ties) {
    cut->ties -= ties;
    return Or(above, equal);
  }
  uint32_t keep = 0;
  for (uint32_t bits = Bits(equal); bits != 0 && cut->ties > 0; bits &= bits - 1, --cut->ties) {
    keep |= bits & -bits;
  }
  const I32x16 of_lane = SetI(static_cast<int32_t>(keep)) & LoadI(kBitOfLane);
  return Or(above, Not(EqI(of_lane, SetI(0))));
}

// What x[0, n) keeps, in order.
int64_t Compact(const float* x, int64_t n, Cut cut, float* out) {
  int64_t kept = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const F32x16 logits = LoadLogits(x + i, n - i);
    kept += Compress(logits, Kept(logits, &cut), out + kept);
  }
  return kept;
}

// The smallest float that min-p keeps: its probability is at least min_p of the best one's.
Cut MinPCut(float max, const SampleFilter& filter) {
  const double least =
      static_cast<double>(max) +
      static_cast<double>(filter.temperature) * __builtin_log(static_cast<double>(filter.min_p));
  float rounded = static_cast<float>(least);
  if (rounded < least) rounded = __builtin_nextafterf(rounded, Infinity());
  return {rounded, INT64_MAX};
}

Cut CutOf(const SampleFilter& filter, const float* x, int64_t vocab, float max, float* list) {
  const Measure shares = {true, max, 1.0 / static_cast<double>(filter.temperature)};
  Cut cut = kKeepAll;
  const bool by_share = filter.top_p < 1;
  if (filter.top_k > 0 && filter.top_k < vocab) {
    cut = Select(x, vocab, {false, 0, 0}, max, filter.top_k, 0, list);
    if (by_share) {
      const int64_t kept = Compact(x, vocab, cut, list);
      const Cut within =
          Select(list, kept, shares, max, 0, static_cast<double>(filter.top_p), list);
      if (Tighter(within, cut)) cut = within;
    }
  } else if (by_share) {
    cut = Select(x, vocab, shares, max, 0, static_cast<double>(filter.top_p), list);
  }
  if (filter.min_p > 0) {
    const Cut within = MinPCut(max, filter);
    if (Tighter(within, cut)) cut = within;
  }
  return cut;
}

SampleCandidate FindBestKept(const SampleFilter& filter, const float* x, int64_t vocab, Cut cut,
                             uint32_t* kept) {
  const Noise noise = {filter.seed, filter.position, filter.choice};
  SampleCandidate best = kNoCandidate;
  for (int64_t i = 0; i < vocab; i += kBlock) {
    M16 keep[kBlock / 16];
    F32x16 most = Set(-Infinity());
    uint32_t any = 0;
    for (int part = 0; part < kBlock / 16; ++part) {
      const int64_t id = i + 16 * part;
      const F32x16 logits = id < vocab ? LoadLogits(x + id, vocab - id) : Set(-Infinity());
      keep[part] = Kept(logits, &cut);
      const uint32_t bits = Bits(keep[part]);
      most = Max(most, Select(keep[part], logits, Set(-Infinity())));
      any |= bits;
      if (kept != nullptr && id < vocab) kept[id / 32] |= bits << (id % 32);
    }
    if (any == 0) continue;
    float gumbel[kBlock];
    if (!MakeNoise(noise, i, ReduceMax(most), filter.temperature, best, gumbel)) continue;
    for (int part = 0; part < kBlock / 16 && i + 16 * part < vocab; ++part) {
      const int64_t id = i + 16 * part;
      const F32x16 scores =
          LoadLogits(x + id, vocab - id) / Set(filter.temperature) + Load(gumbel + 16 * part);
      Challenge(Select(keep[part], scores, Set(-Infinity())), filter.logits + id, id, &best);
    }
  }
  return best;
}

// Penalties, bias and banned ids, each rounded to F32; `row` is filter.logits' copy.
void Adjust(const SampleFilter& filter, float* row) {
  for (const TokenCount& count : filter.seen) {
    float& x = row[count.id];
    x = x > 0 ? x / filter.repetition_penalty : x * filter.repetition_penalty;
    if (count.generated == 0) continue;
    x = x - filter.frequency_penalty * static_cast<float>(count.generated);
    x = x - filter.presence_penalty;
  }
  for (const LogitBias& bias : filter.bias) row[bias.id] += bias.bias;
  for (const int32_t id : filter.banned) row[id] = -Infinity();
}

SampleCandidate SampleRow(const SampleFilter& filter, int64_t vocab, float* scratch,
                          uint32_t* kept) {
  const int64_t stride = SampleFilteredScratch(vocab, 1) / 2;
  float* list = scratch + stride;
  const float* x = filter.logits;
  // Looked for in the row itself: a penalty may turn a NaN's id into a banned one.
  float max = SegmentMax(x, vocab);
  if (!(max < Infinity())) return kNoCandidate;
  if (!filter.seen.empty() || !filter.bias.empty() || !filter.banned.empty()) {
    __builtin_memcpy(scratch, x, static_cast<size_t>(vocab) * sizeof(float));
    Adjust(filter, scratch);
    x = scratch;
    max = SegmentMax(x, vocab);
  }
  if (!(max > -Infinity() && max < Infinity())) return kNoCandidate;
  SampleCandidate best = kNoCandidate;
  if (filter.temperature == 0) {
    FindBest(x, vocab, 0, 0, {}, &best);
    best.logit = filter.logits[best.id];
    return best;
  }
  const Cut cut = CutOf(filter, x, vocab, max, list);
  return FindBestKept(filter, x, vocab, cut, kept);
}

}  // namespace

void SampleFiltered(const SampleFilteredArgs& args, ThreadPool& pool) {
  const int64_t words = (args.vocab + 31) / 32;
  pool.ParallelFor(static_cast<int64_t>(args.rows.size()), 1,
                   [&](int64_t begin, int64_t end, int thread) {
                     float* scratch = args.scratch + SampleFilteredScratch(args.vocab, thread);
                     for (int64_t row = begin; row < end; ++row) {
                       uint32_t* kept = args.kept != nullptr ? args.kept + row * words : nullptr;
                       for (int64_t w = 0; kept != nullptr && w < words; ++w) kept[w] = 0;
                       args.best[row] = SampleRow(args.rows[row], args.vocab, scratch, kept);
                     }
                   });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
