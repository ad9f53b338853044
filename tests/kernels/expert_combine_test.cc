#include <optional>

#include "tests/kernels/reference.h"

namespace whalepod {
namespace {

using reference::OnEveryBackend;
using reference::Random;

// A sum over leaves of which some are absent.
struct Maybe {
  std::optional<float> value;
  friend Maybe operator+(Maybe a, Maybe b) {
    if (!a.value) return b;
    if (!b.value) return a;
    return {*a.value + *b.value};
  }
};

struct Tokens {
  std::vector<int32_t> ids, slots;
  std::vector<float> weights;
  int64_t rows = 0;
};

// top_k distinct ascending experts for each token; those in [first, last) are on this rank.
Tokens Choose(Random& random, int64_t tokens, int64_t top_k, int64_t experts, int64_t first,
              int64_t last) {
  Tokens t;
  for (int64_t token = 0; token < tokens; ++token) {
    int64_t needed = top_k;
    for (int64_t e = 0; e < experts && needed > 0; ++e) {
      if (random.Below(experts - e) >= needed) continue;
      --needed;
      t.ids.push_back(static_cast<int32_t>(e));
      t.weights.push_back(random.Uniform(-1, 1));
      t.slots.push_back(e >= first && e < last ? static_cast<int32_t>(t.rows++) : -1);
    }
  }
  return t;
}

std::vector<float> Plain(const ExpertCombineArgs& args) {
  std::vector<float> out(static_cast<size_t>(args.tokens * args.ldo));
  for (int64_t t = 0; t < args.tokens; ++t) {
    for (int64_t c = 0; c < args.width; ++c) {
      const Maybe sum = TreeSum<Maybe>(0, args.experts, [&](int64_t e) -> Maybe {
        for (int64_t i = t * args.top_k; i < (t + 1) * args.top_k; ++i) {
          if (args.ids[i] == e && args.slots[i] >= 0) {
            return {args.weights[i] * args.rows[args.slots[i] * args.ld + c]};
          }
        }
        return {};
      });
      out[static_cast<size_t>(t * args.ldo + c)] = sum.value.value_or(0.0f) + 0.0f;
    }
  }
  return out;
}

TEST(ExpertCombine, TreeOverExpertIdsWithAbsentLeavesSkipped) {
  struct Case {
    int64_t tokens, top_k, experts, width, first, last;
  };
  for (const Case& c :
       {Case{3, 8, 256, 130, 0, 256}, Case{4, 8, 256, 16, 64, 128}, Case{5, 3, 7, 515, 0, 7},
        Case{2, 1, 4, 5, 0, 4}, Case{3, 6, 6, 64, 2, 5}, Case{2, 4, 64, 33, 64, 64}}) {
    Random random(static_cast<uint64_t>(c.width));
    const Tokens chosen = Choose(random, c.tokens, c.top_k, c.experts, c.first, c.last);
    const int64_t ld = c.width + 3;
    std::vector<float> rows = random.Floats((chosen.rows + 1) * ld, -3, 3);
    rows[0] = -0.0f;
    ExpertCombineArgs args{.tokens = c.tokens,
                           .top_k = c.top_k,
                           .experts = c.experts,
                           .width = c.width,
                           .ids = chosen.ids.data(),
                           .weights = chosen.weights.data(),
                           .slots = chosen.slots.data(),
                           .rows = rows.data(),
                           .ld = ld,
                           .ldo = c.width + 2};
    const std::vector<float> expected = Plain(args);
    OnEveryBackend([&](Backend& backend) {
      std::vector<float> out(expected.size());
      args.out = out.data();
      ASSERT_TRUE(backend.ExpertCombine(args).ok());
      reference::ExpectSameBits(out, expected);
    });
  }
}

// Two ranks with half the experts each, added by TreeAdd: what one rank computes alone.
TEST(ExpertCombine, HalvesAddUpToTheWhole) {
  const int64_t tokens = 6, top_k = 4, experts = 16, width = 48;
  Random random(8);
  const Tokens chosen = Choose(random, tokens, top_k, experts, 0, experts);
  const std::vector<float> rows = random.Floats(chosen.rows * width);
  OnEveryBackend([&](Backend& backend) {
    ExpertCombineArgs args{.tokens = tokens,
                           .top_k = top_k,
                           .experts = experts,
                           .width = width,
                           .ids = chosen.ids.data(),
                           .weights = chosen.weights.data(),
                           .slots = chosen.slots.data(),
                           .rows = rows.data(),
                           .ld = width,
                           .ldo = width};
    std::vector<float> whole(static_cast<size_t>(tokens * width)), sum = whole;
    args.out = whole.data();
    ASSERT_TRUE(backend.ExpertCombine(args).ok());
    std::vector<std::vector<float>> halves;
    for (int64_t rank = 0; rank < 2; ++rank) {
      std::vector<int32_t> slots = chosen.slots;
      for (size_t i = 0; i < slots.size(); ++i) {
        if (chosen.ids[i] / (experts / 2) != rank) slots[i] = -1;
      }
      halves.emplace_back(whole.size());
      args.slots = slots.data();
      args.out = halves.back().data();
      ASSERT_TRUE(backend.ExpertCombine(args).ok());
    }
    const std::vector<const float*> partials = {halves[0].data(), halves[1].data()};
    ASSERT_TRUE(backend
                    .TreeAdd({.rows = tokens,
                              .cols = width,
                              .partials = partials,
                              .ldp = width,
                              .out = sum.data(),
                              .ldo = width})
                    .ok());
    reference::ExpectSameBits(sum, whole);
  });
}

}  // namespace
}  // namespace whalepod
