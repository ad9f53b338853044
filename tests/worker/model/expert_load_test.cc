// What ranks tell of their experts' load is what was routed to them, in every layout.
#include <algorithm>
#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/model/harness.h"

namespace whalepod::testing {
namespace {

constexpr int kSteps = 64;  // a report
constexpr int kPrompt = 20;

// Tokens by layer and expert. All routes of its rank's own group: with one group, of all.
class RouteCounter : public ForwardObserver {
 public:
  void OnRoutes(int64_t layer, const Batch& batch, int64_t top_k, const int32_t* ids,
                const float*) override {
    for (int64_t i = 0; i < batch.tokens * top_k; ++i) ++tokens[layer][ids[i]];
  }
  std::map<int64_t, std::map<int, uint64_t>> tokens;
};

struct Totals {
  uint64_t experts = 0;
  std::map<uint32_t, uint64_t> tokens, most;
  int reports = 0;
};

// A prompt and then decodes, one sequence in each DP group; the reports of the 64th step together.
// Earlier steps must have none.
Totals RunSteps(DeploymentOptions options) {
  Totals totals;
  auto deployment = Deployment::Create(options);
  EXPECT_TRUE(deployment.ok()) << deployment.status();
  if (!deployment.ok()) return totals;
  for (int step = 1; step <= kSteps; ++step) {
    v1::StepPlan plan;
    for (int group = 0; group < options.dp; ++group) {
      plan.add_group_tokens(step == 1 ? kPrompt : 1);
      if (step > 1) continue;
      v1::NewSequence* sequence = plan.add_new_sequences();
      sequence->set_sequence(group + 1);
      sequence->set_dp_group(group);
      for (int i = 0; i < kPrompt; ++i) sequence->add_tokens((7 * i + 3) % 500);
      sequence->set_prompt_len(kPrompt);
      sequence->mutable_sampling()->set_max_tokens(200);
      sequence->mutable_sampling()->set_ignore_eos(true);
      sequence->mutable_sampling()->set_logprobs(-1);
      v1::GrantedBlocks* granted = plan.add_granted();
      granted->set_dp_group(group);
      granted->add_blocks(0);
      granted->add_blocks(1);
      v1::PrefillChunk* chunk = plan.add_prefill();
      chunk->set_dp_group(group);
      chunk->set_tokens(kPrompt);
    }
    const auto results = (*deployment)->Step(plan);
    EXPECT_TRUE(results.ok()) << results.status();
    if (!results.ok()) return totals;
    for (const v1::StepResult& result : *results) {
      if (!result.has_expert_load()) continue;
      EXPECT_EQ(step, kSteps);
      const v1::ExpertLoad& load = result.expert_load();
      ++totals.reports;
      totals.experts += load.experts();
      for (int i = 0; i < load.layers_size(); ++i) {
        totals.tokens[load.layers(i)] += load.tokens(i);
        uint64_t& most = totals.most[load.layers(i)];
        most = std::max(most, load.most(i));
      }
    }
  }
  return totals;
}

class ExpertLoadTest : public ::testing::Test {
 protected:
  static DeploymentOptions Options(int dp, int tp, int ep, int moe_tp) {
    DeploymentOptions options;
    options.checkpoint = WHALEPOD_MODELS_DIR "/r1-draft";
    options.dp = dp;
    options.tp = tp;
    options.ep = ep;
    options.moe_tp = moe_tp;
    return options;
  }
};

TEST_F(ExpertLoadTest, IsWhatWasRouted) {
  RouteCounter routes;
  DeploymentOptions options = Options(1, 1, 1, 1);
  options.observer = &routes;
  const Totals alone = RunSteps(options);
  EXPECT_EQ(alone.reports, 1);
  ASSERT_FALSE(routes.tokens.empty());
  EXPECT_EQ(alone.tokens.size(), routes.tokens.size());
  for (const auto& [layer, experts] : routes.tokens) {
    uint64_t sum = 0, most = 0;
    for (const auto& [expert, tokens] : experts) {
      sum += tokens;
      most = std::max(most, tokens);
    }
    EXPECT_EQ(alone.tokens.at(layer), sum) << "layer " << layer;
    EXPECT_EQ(alone.most.at(layer), most) << "layer " << layer;
  }
}

TEST_F(ExpertLoadTest, DoesNotDependOnTheLayout) {
  const Totals alone = RunSteps(Options(1, 1, 1, 1));
  struct Case {
    int dp, tp, ep, moe_tp, reports;
  };
  for (const Case& c : {Case{1, 2, 2, 1, 2}, Case{1, 2, 1, 2, 1}, Case{1, 4, 2, 2, 2},
                        Case{2, 1, 2, 1, 2}, Case{2, 2, 2, 2, 2}}) {
    const Totals totals = RunSteps(Options(c.dp, c.tp, c.ep, c.moe_tp));
    SCOPED_TRACE(Options(c.dp, c.tp, c.ep, c.moe_tp).Name());
    EXPECT_EQ(totals.reports, c.reports);
    EXPECT_EQ(totals.experts, alone.experts);
    for (const auto& [layer, tokens] : alone.tokens) {
      EXPECT_EQ(totals.tokens.at(layer), c.dp * tokens) << "layer " << layer;
      EXPECT_EQ(totals.most.at(layer), c.dp * alone.most.at(layer)) << "layer " << layer;
    }
  }
}

}  // namespace
}  // namespace whalepod::testing
