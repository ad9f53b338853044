// A request's tokens and logprobs do not depend on the layout, to the bit (docs/numbers.md).
#include <algorithm>
#include <cstdio>

#include "gtest/gtest.h"
#include "tests/worker/model/golden.h"
#include "tests/worker/model/harness.h"
#include "tests/worker/model/random_checkpoint.h"

namespace whalepod::testing {
namespace {

struct LayoutCase {
  std::string name;
  int dp, tp, ep, moe_tp;
  bool same_bits = true;  // false: uneven experts, equal tokens only
};

// Of r1-draft: 8 heads, 32 experts.
const LayoutCase kLayouts[] = {
    {"tp2", 1, 2, 1, 2},         {"tp2_ep2", 1, 2, 2, 1},
    {"tp4", 1, 4, 1, 4},         {"tp4_ep4", 1, 4, 4, 1},
    {"tp4_ep2", 1, 4, 2, 2},     {"dp2", 2, 1, 1, 2},
    {"dp2_ep2", 2, 1, 2, 1},     {"dp4", 4, 1, 1, 4},
    {"dp4_ep4", 4, 1, 4, 1},     {"dp4_ep2", 4, 1, 2, 2},
    {"dp2_tp2", 2, 2, 1, 4},     {"dp2_tp2_ep4", 2, 2, 4, 1},
    {"dp2_tp2_ep2", 2, 2, 2, 2}, {"dp3_ep3", 3, 1, 3, 1, false},
};

struct Numerics {
  std::string name;
  bool float32, w8a8;
};
const Numerics kNumerics[] = {{"bf16", false, false},
                              {"f32", true, false},
                              {"bf16_w8a8", false, true},
                              {"f32_w8a8", true, true}};

// All that narrows a choice, and the prompt's logprobs; `i` varies what there is.
v1::SamplingParams Narrowed(size_t i) {
  v1::SamplingParams more;
  more.set_top_k(i == 0 ? 0 : 40);
  more.set_top_p(0.9f);
  more.set_min_p(i == 1 ? 0 : 0.01f);
  more.set_repetition_penalty(1.2f);
  more.set_frequency_penalty(0.3f);
  more.set_presence_penalty(i == 2 ? -0.5f : 0.5f);
  for (uint32_t id : {3u, 50u, 300u}) {
    v1::LogitBias* bias = more.add_logit_bias();
    bias->set_token_id(id);
    bias->set_bias(1.5f);
  }
  more.set_min_tokens(6);
  more.add_banned_token_ids(1);
  more.set_prompt_logprobs(3);
  return more;
}

// Requests that make uneven batches: several lengths, greedy and sampled, spread over DP groups.
std::vector<Request> Requests(const std::string& checkpoint, int max_new) {
  std::vector<std::vector<uint32_t>> prompts;
  const nlohmann::json golden = ReadJson(checkpoint + "/golden.json");
  for (uint32_t i = 0; i < 3; ++i) {
    if (golden.is_array()) {  // r1-draft's transcripts
      const auto ids = golden[i]["ids"].get<std::vector<uint32_t>>();
      prompts.emplace_back(ids.begin(), ids.begin() + golden[i]["prompt_len"].get<int>());
    } else {
      prompts.emplace_back();
      for (uint32_t t = 0; t < 5 + 33 * i; ++t) prompts[i].push_back((t * t * 31 + 17 * i) % 523);
    }
  }
  std::vector<Request> requests;
  for (size_t i = 0; i < prompts.size(); ++i) {
    for (float temperature : {0.0f, 0.6f}) {
      for (bool narrowed : {false, true}) {
        requests.push_back({.prompt = prompts[i],
                            .max_new = max_new,
                            .temperature = temperature,
                            .seed = 1234567890123u + i,
                            .logprobs = 5,
                            .more = narrowed ? Narrowed(i) : v1::SamplingParams(),
                            .dp_group = static_cast<int>(requests.size())});
      }
    }
  }
  return requests;
}

void ExpectSame(const std::vector<Completion>& a, const std::vector<Completion>& b,
                bool same_bits) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].ids, b[i].ids) << "request " << i;
    EXPECT_EQ(a[i].error, b[i].error);
    if (!same_bits || a[i].ids != b[i].ids) continue;
    EXPECT_EQ(a[i].logprobs, b[i].logprobs) << "request " << i;
    ASSERT_EQ(a[i].prompt.size(), b[i].prompt.size()) << "request " << i;
    for (size_t t = 0; t < a[i].prompt.size(); ++t) {
      EXPECT_EQ(a[i].prompt[t].SerializeAsString(), b[i].prompt[t].SerializeAsString());
      EXPECT_EQ(a[i].prompt[t].top_size(), 3);
    }
    for (size_t t = 0; t < a[i].top.size(); ++t) {
      ASSERT_EQ(a[i].top[t].size(), b[i].top[t].size());
      for (size_t k = 0; k < a[i].top[t].size(); ++k) {
        EXPECT_EQ(a[i].top[t][k].token_id(), b[i].top[t][k].token_id());
        EXPECT_EQ(a[i].top[t][k].logprob(), b[i].top[t][k].logprob());
      }
    }
  }
}

std::vector<Completion> Serve(const DeploymentOptions& setup,
                              const std::vector<Request>& requests) {
  auto deployment = Deployment::Create(setup);
  if (!deployment.ok()) {
    ADD_FAILURE() << setup.Name() << ": " << deployment.status();
    return {};
  }
  auto completions = Generate(**deployment, requests);
  if (!completions.ok()) {
    ADD_FAILURE() << setup.Name() << ": " << completions.status();
    return {};
  }
  return *std::move(completions);
}

class LayoutTest : public ::testing::TestWithParam<Numerics> {
 protected:
  // All layouts against one rank.
  void Compare(const std::string& checkpoint, int max_new, const std::vector<LayoutCase>& layouts) {
    const std::vector<Request> requests = Requests(checkpoint, max_new);
    DeploymentOptions one{
        .checkpoint = checkpoint,
        .float32 = GetParam().float32,
        .w8a8 = GetParam().w8a8,
        .max_tokens = 24};  // prompts are cut into chunks, which shifts with the layout
    const std::vector<Completion> expected = Serve(one, requests);
    ASSERT_EQ(expected.size(), requests.size());
    for (const LayoutCase& layout : layouts) {
      SCOPED_TRACE(layout.name);
      DeploymentOptions setup = one;
      setup.dp = layout.dp;
      setup.tp = layout.tp;
      setup.ep = layout.ep;
      setup.moe_tp = layout.moe_tp;
      ExpectSame(Serve(setup, requests), expected, layout.same_bits);
    }
  }
};

TEST_P(LayoutTest, DraftGivesTheSameBits) {
  const std::string folder = WHALEPOD_SHARED_DIR "/data/r1-draft";
  if (ReadJson(folder + "/golden.json").is_discarded())
    GTEST_SKIP() << "skipped, no reference data";
  Compare(folder, 24, {std::begin(kLayouts), std::end(kLayouts)});
}

TEST_P(LayoutTest, RandomModelGivesTheSameBits) {
  auto folder = WriteRandomCheckpoint({.fp8 = true});
  ASSERT_TRUE(folder.ok()) << folder.status();
  std::vector<LayoutCase> layouts;
  for (const LayoutCase& layout : kLayouts) {
    if (layout.same_bits) layouts.push_back(layout);
  }
  Compare(*folder, 24, layouts);
}

INSTANTIATE_TEST_SUITE_P(All, LayoutTest, ::testing::ValuesIn(kNumerics),
                         [](const auto& info) { return info.param.name; });

// What the plan gives each rank's buffers is what they take, up to a page.
TEST(ActivationArenaTest, PlannedIsActualInEveryLayout) {
  auto random = WriteRandomCheckpoint({.fp8 = true});
  ASSERT_TRUE(random.ok()) << random.status();
  for (const std::string& folder : {*random, std::string(WHALEPOD_GOLDEN_DIR "/all_dense"),
                                    std::string(WHALEPOD_GOLDEN_DIR "/no_shared_no_dense")}) {
    for (const LayoutCase& layout : kLayouts) {
      // The small goldens cannot be cut in four.
      if (folder != *random && (layout.tp > 2 || layout.dp > 2)) continue;
      for (const Numerics& numerics : kNumerics) {
        SCOPED_TRACE(folder + " " + layout.name + " " + numerics.name);
        auto deployment = Deployment::Create({.checkpoint = folder,
                                              .dp = layout.dp,
                                              .tp = layout.tp,
                                              .ep = layout.ep,
                                              .moe_tp = layout.moe_tp,
                                              .float32 = numerics.float32,
                                              .w8a8 = numerics.w8a8,
                                              .max_seqs = 3});
        ASSERT_TRUE(deployment.ok()) << deployment.status();
        for (int r = 0; r < layout.dp * layout.tp; ++r) {
          const int64_t actual = (*deployment)->executor(r).activation_bytes();
          EXPECT_GE((*deployment)->planned_activations(r), actual) << "rank " << r;
          EXPECT_LT((*deployment)->planned_activations(r), actual + 8192) << "rank " << r;
        }
      }
    }
  }
}

// Few tokens a step and many threads, so that absorbed attention asks for most, and a context that
// ends in the first half of its tile of positions.
TEST(ActivationArenaTest, PlannedIsActualWithFewTokensAndSmallBlocks) {
  auto random = WriteRandomCheckpoint({.fp8 = true});
  ASSERT_TRUE(random.ok()) << random.status();
  auto deployment = Deployment::Create({.checkpoint = *random,
                                        .max_tokens = 4,
                                        .max_seqs = 1,
                                        .max_model_len = 4080,
                                        .block_tokens = 16,
                                        .threads = 16});
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  const int64_t actual = (*deployment)->executor(0).activation_bytes();
  EXPECT_GE((*deployment)->planned_activations(0), actual);
  EXPECT_LT((*deployment)->planned_activations(0), actual + 8192);
}

}  // namespace
}  // namespace whalepod::testing
