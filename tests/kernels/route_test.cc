#include <gmock/gmock.h>

#include <algorithm>

#include "tests/kernels/reference.h"

namespace whalepod {
namespace {

using reference::kInf;
using reference::kNan;
using reference::OnEveryBackend;
using reference::Random;
using testing::ElementsAre;

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

// The choice by sorting: nothing in common with the op's loops.
Routed Plain(const RouteArgs& args) {
  Routed routed;
  const int64_t size = args.experts / args.groups;
  for (int64_t t = 0; t < args.tokens; ++t) {
    std::vector<float> scores, biased;
    for (int64_t e = 0; e < args.experts; ++e) {
      scores.push_back(reference::Sigmoid(args.logits[t * args.experts + e]));
      biased.push_back(args.bias == nullptr ? scores.back() : scores.back() + args.bias[e]);
    }
    std::vector<std::pair<float, int64_t>> groups;  // (-score, index): sorts as wanted
    for (int64_t g = 0; g < args.groups; ++g) {
      std::vector<float> members(biased.begin() + g * size, biased.begin() + (g + 1) * size);
      std::sort(members.rbegin(), members.rend());
      groups.emplace_back(-(size > 1 ? members[0] + members[1] : members[0]), g);
    }
    std::sort(groups.begin(), groups.end());
    std::vector<std::pair<float, int64_t>> experts;
    for (int64_t i = 0; i < args.topk_groups; ++i) {
      for (int64_t e = groups[static_cast<size_t>(i)].second * size;
           e < (groups[static_cast<size_t>(i)].second + 1) * size; ++e) {
        experts.emplace_back(-biased[static_cast<size_t>(e)], e);
      }
    }
    std::sort(experts.begin(), experts.end());
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < args.top_k; ++i) {
      ids.push_back(static_cast<int32_t>(experts[static_cast<size_t>(i)].second));
    }
    std::sort(ids.begin(), ids.end());
    float sum = 0;
    for (int32_t id : ids) sum += scores[static_cast<size_t>(id)];
    for (int32_t id : ids) {
      const float score = scores[static_cast<size_t>(id)];
      routed.ids.push_back(id);
      routed.weights.push_back((args.normalise ? score / (sum + 1e-20f) : score) * args.scale);
    }
  }
  return routed;
}

Routed RouteTokens(Backend& backend, RouteArgs args) {
  Routed routed;
  routed.ids.assign(static_cast<size_t>(args.tokens * args.top_k), -7);
  routed.weights.assign(routed.ids.size(), -7.0f);
  args.ids = routed.ids.data();
  args.weights = routed.weights.data();
  const absl::Status status = backend.Route(args);
  EXPECT_TRUE(status.ok()) << status;
  return routed;
}

struct Shape {
  int64_t experts, groups, topk_groups, top_k;
};
constexpr Shape kShapes[] = {{256, 8, 4, 8}, {64, 1, 1, 6},  {16, 4, 2, 3},
                             {8, 8, 3, 3},   {21, 3, 3, 21}, {40, 5, 1, 2}};

TEST(Route, EqualsSorting) {
  const int64_t tokens = 9;
  for (const Shape& shape : kShapes) {
    for (bool with_bias : {false, true}) {
      Random random(static_cast<uint64_t>(shape.experts));
      // Few distinct logits, so that experts and groups tie often.
      std::vector<float> logits;
      for (int64_t i = 0; i < tokens * shape.experts; ++i) {
        logits.push_back(i % 2 == 0 ? static_cast<float>(random.Below(4)) - 2
                                    : random.Uniform(-4, 4));
      }
      const std::vector<float> bias = random.Floats(shape.experts, -0.3f, 0.3f);
      RouteArgs args{.tokens = tokens,
                     .experts = shape.experts,
                     .groups = shape.groups,
                     .topk_groups = shape.topk_groups,
                     .top_k = shape.top_k,
                     .normalise = with_bias,
                     .scale = 2.5f,
                     .logits = logits.data(),
                     .bias = with_bias ? bias.data() : nullptr};
      const Routed expected = Plain(args);
      OnEveryBackend([&](Backend& backend) {
        const Routed found = RouteTokens(backend, args);
        EXPECT_EQ(found.ids, expected.ids);
        reference::ExpectSameBits(found.weights, expected.weights);
      });
    }
  }
}

TEST(Route, AllEqualChoosesTheLowest) {
  const std::vector<float> logits(16, 0.5f);
  OnEveryBackend([&](Backend& backend) {
    const Routed found = RouteTokens(backend, {.tokens = 1,
                                               .experts = 16,
                                               .groups = 4,
                                               .topk_groups = 2,
                                               .top_k = 5,
                                               .logits = logits.data()});
    EXPECT_THAT(found.ids, ElementsAre(0, 1, 2, 3, 4));
  });
}

// A bias far below any score: a masked group must not win against chosen groups' negative values.
TEST(Route, VeryNegativeBiasesStillChooseKInsideTheBestGroups) {
  const std::vector<float> logits = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<float> bias = {-50, -90, -90, -90, -60, -60, -70, -70};
  OnEveryBackend([&](Backend& backend) {
    // Group sums: about -140, -180, -120, -140: group 2 is best, group 0's lower logits lose to
    // 3's.
    const Routed found = RouteTokens(backend, {.tokens = 1,
                                               .experts = 8,
                                               .groups = 4,
                                               .topk_groups = 1,
                                               .top_k = 2,
                                               .logits = logits.data(),
                                               .bias = bias.data()});
    EXPECT_THAT(found.ids, ElementsAre(4, 5));
    EXPECT_GT(found.weights[0], 0.4f);
  });
}

TEST(Route, NanIsFlaggedForItsTokenOnly) {
  std::vector<float> logits(24, 0.0f);
  logits[8 + 3] = kNan;
  logits[16] = kInf;
  logits[17] = -kInf;
  OnEveryBackend([&](Backend& backend) {
    const Routed found = RouteTokens(backend, {.tokens = 3,
                                               .experts = 8,
                                               .groups = 2,
                                               .topk_groups = 2,
                                               .top_k = 2,
                                               .logits = logits.data()});
    EXPECT_THAT(found.ids, ElementsAre(0, 1, -1, -1, 0, 2));
    EXPECT_THAT(found.weights, ElementsAre(0.5f, 0.5f, 0.0f, 0.0f, 1.0f / 1.5f, 0.5f / 1.5f));
  });
}

}  // namespace
}  // namespace whalepod
