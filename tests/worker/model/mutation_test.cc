// Small errors put in on purpose: what the golden and layout tests compare must tell them.
#include <algorithm>
#include <cmath>

#include "gtest/gtest.h"
#include "tests/worker/model/golden.h"
#include "tests/worker/model/harness.h"
#include "tests/worker/model/mutant_backend.h"
#include "tests/worker/model/random_checkpoint.h"

namespace whalepod::testing {
namespace {

const char kFolder[] = WHALEPOD_GOLDEN_DIR "/r1_like_fp8";

DeploymentOptions WithMutation(Mutation mutation, const std::string& folder = kFolder) {
  return {.checkpoint = folder, .float32 = true, .wrap = [mutation](auto inner) {
            return std::make_unique<MutantBackend>(std::move(inner), mutation);
          }};
}

// The golden test's measure: the worst difference of the last prompt position's logits, in sigmas.
double GoldenDifference(Mutation mutation) {
  const nlohmann::json transcript =
      ReadJson(std::string(kFolder) + "/golden.json")["transcripts"][1];
  Recorder recorder;
  DeploymentOptions setup = WithMutation(mutation);
  setup.observer = &recorder;
  auto deployment = Deployment::Create(setup);
  EXPECT_TRUE(deployment.ok()) << deployment.status();
  const auto prompt = transcript["prompt"].get<std::vector<uint32_t>>();
  EXPECT_TRUE(Generate(**deployment, {{.prompt = prompt, .max_new = 1}}).ok());
  const std::vector<float>& logits = recorder.logits.at(static_cast<int64_t>(prompt.size()) - 1);
  double worst = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    worst =
        std::max(worst, std::abs(logits[i] - transcript["last_prompt_logits"][i].get<double>()));
  }
  return worst / transcript["sigma"].get<double>();
}

TEST(MutationTest, GoldensTellWrongExpertsAndRope) {
  EXPECT_LT(GoldenDifference(Mutation::kNone), 1e-4);
  EXPECT_GT(GoldenDifference(Mutation::kExpertError), 1e-4);
  EXPECT_GT(GoldenDifference(Mutation::kShiftedRope), 1e-4);
}

std::vector<float> Logprobs(DeploymentOptions setup) {
  auto deployment = Deployment::Create(setup);
  EXPECT_TRUE(deployment.ok()) << deployment.status();
  if (!deployment.ok()) return {};
  auto completions = Generate(**deployment, {{.prompt = {0, 5, 77, 31, 9}, .max_new = 8}});
  EXPECT_TRUE(completions.ok()) << completions.status();
  return completions->at(0).logprobs;
}

TEST(MutationTest, LayoutsTellAnyOfThem) {
  auto folder = WriteRandomCheckpoint({});
  ASSERT_TRUE(folder.ok()) << folder.status();
  const std::vector<float> one = Logprobs(WithMutation(Mutation::kNone, *folder));
  for (Mutation mutation : {Mutation::kNone, Mutation::kExpertError, Mutation::kRotatedReduction,
                            Mutation::kShiftedRope}) {
    DeploymentOptions setup = WithMutation(mutation, *folder);
    setup.tp = 4;
    setup.ep = 4;
    EXPECT_EQ(Logprobs(setup) == one, mutation == Mutation::kNone);
  }
}

}  // namespace
}  // namespace whalepod::testing
