#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

// The state of one token's choice; all arrays in one thread's scratch.
struct Choice {
  float* scores;    // [experts] sigmoid(logit)
  float* biased;    // [experts] what is chosen by
  float* group;     // [groups] sum of the group's two best
  uint8_t* open;    // [groups] the group is among the best
  uint8_t* chosen;  // [experts]
};

int64_t ScratchBytes(const RouteArgs& args) {
  return (2 * args.experts + args.groups) * static_cast<int64_t>(sizeof(float)) + args.groups +
         args.experts;
}

Choice Carve(const RouteArgs& args, void* scratch) {
  Choice c;
  c.scores = static_cast<float*>(scratch);
  c.biased = c.scores + args.experts;
  c.group = c.biased + args.experts;
  c.open = reinterpret_cast<uint8_t*>(c.group + args.groups);
  c.chosen = c.open + args.groups;
  return c;
}

// False if a score to choose by is NaN.
bool Score(const RouteArgs& args, const float* logits, const Choice& c) {
  bool ordered = true;
  for (int64_t e = 0; e < args.experts; e += 16) {
    const int64_t left = args.experts - e;
    const int n = left < 16 ? static_cast<int>(left) : 16;
    const F32x16 score = Sigmoid(LoadPartial(logits + e, n));
    const F32x16 biased = args.bias == nullptr ? score : score + LoadPartial(args.bias + e, n);
    ordered = ordered && !Any(IsNan(biased));
    StorePartial(c.scores + e, score, n);
    StorePartial(c.biased + e, biased, n);
  }
  return ordered;
}

void ScoreGroups(const RouteArgs& args, const Choice& c) {
  const int64_t size = args.experts / args.groups;
  for (int64_t g = 0; g < args.groups; ++g) {
    const float* members = c.biased + g * size;
    float best = members[0];
    float second = 0;
    bool has_second = false;
    for (int64_t i = 1; i < size; ++i) {
      if (members[i] > best) {
        second = best;
        best = members[i];
      } else if (!has_second || members[i] > second) {
        second = members[i];
      }
      has_second = true;
    }
    c.group[g] = has_second ? best + second : best;
    c.open[g] = 0;
  }
}

// Marks the `count` best groups, the lowest first among equals.
void OpenGroups(const RouteArgs& args, const Choice& c) {
  for (int64_t round = 0; round < args.topk_groups; ++round) {
    int64_t best = -1;
    for (int64_t g = 0; g < args.groups; ++g) {
      if (!c.open[g] && (best < 0 || c.group[g] > c.group[best])) best = g;
    }
    c.open[best] = 1;
  }
}

void ChooseExperts(const RouteArgs& args, const Choice& c) {
  const int64_t size = args.experts / args.groups;
  for (int64_t e = 0; e < args.experts; ++e) c.chosen[e] = 0;
  for (int64_t round = 0; round < args.top_k; ++round) {
    int64_t best = -1;
    for (int64_t g = 0; g < args.groups; ++g) {
      if (!c.open[g]) continue;
      for (int64_t e = g * size; e < (g + 1) * size; ++e) {
        if (!c.chosen[e] && (best < 0 || c.biased[e] > c.biased[best])) best = e;
      }
    }
    c.chosen[best] = 1;
  }
}

void RouteToken(const RouteArgs& args, int64_t token, const Choice& c) {
  int32_t* ids = args.ids + token * args.top_k;
  float* weights = args.weights + token * args.top_k;
  if (!Score(args, args.logits + token * args.experts, c)) {
    for (int64_t i = 0; i < args.top_k; ++i) {
      ids[i] = -1;
      weights[i] = 0;
    }
    return;
  }
  ScoreGroups(args, c);
  OpenGroups(args, c);
  ChooseExperts(args, c);
  int64_t n = 0;
  float sum = 0;
  for (int64_t e = 0; e < args.experts; ++e) {
    if (!c.chosen[e]) continue;
    ids[n] = static_cast<int32_t>(e);
    weights[n++] = c.scores[e];
    sum += c.scores[e];
  }
  for (int64_t i = 0; i < args.top_k; ++i) {
    if (args.normalise) weights[i] /= sum + 1e-20f;
    weights[i] *= args.scale;
  }
}

}  // namespace

void Route(const RouteArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.tokens, 1, [&](int64_t begin, int64_t end, int thread) {
    const Choice choice = Carve(args, pool.ThreadScratch(thread, ScratchBytes(args)));
    for (int64_t t = begin; t < end; ++t) RouteToken(args, t, choice);
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
