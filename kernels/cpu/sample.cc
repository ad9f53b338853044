#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/sampling.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

float SegmentSum(const float* logits, int64_t n, float max) {
  if (max == -Infinity()) return 0;
  F32x16 sum = Zero();
  for (int64_t i = 0; i < n; i += 16) {
    sum += Exp(LoadLogits(logits + i, n - i) - Set(max));
  }
  return ReduceTree(sum);
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
  for (int64_t i = 0; i < args.top_k; ++i) top[i] = kNoCandidate;
  SampleCandidate best = kNoCandidate;
  TopList list = {top, args.top_k, 0};
  const float temperature = args.temperature[row];
  const int64_t target = args.target != nullptr ? args.target[row] : -1;
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
    if (target < 0) {
      FindBest(segment, n, id0, temperature, noise, &best);
    } else if (target >= id0 && target < id0 + n) {
      const float logit = segment[target - id0];
      best = {logit, logit, static_cast<int32_t>(target)};
    }
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
