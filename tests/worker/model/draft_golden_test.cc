// r1-draft against the transcripts of an independent float64 implementation.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "gtest/gtest.h"
#include "tests/worker/model/golden.h"
#include "tests/worker/model/harness.h"

namespace whalepod::testing {
namespace {

const char kFolder[] = WHALEPOD_SHARED_DIR "/data/r1-draft";

class DraftGoldenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    golden_ = ReadJson(std::string(kFolder) + "/golden.json");
    if (golden_.is_discarded()) GTEST_SKIP() << "skipped, no reference data";
  }

  absl::StatusOr<std::unique_ptr<Deployment>> Load(bool float32) {
    return Deployment::Create(
        {.checkpoint = kFolder, .float32 = float32, .max_tokens = 256, .observer = &recorder_});
  }

  // Prompt and greedy continuation of one transcript.
  static std::vector<uint32_t> Prompt(const nlohmann::json& transcript) {
    const auto ids = transcript["ids"].get<std::vector<uint32_t>>();
    return {ids.begin(), ids.begin() + transcript["prompt_len"].get<int>()};
  }
  static std::vector<uint32_t> Continuation(const nlohmann::json& transcript) {
    const auto ids = transcript["ids"].get<std::vector<uint32_t>>();
    return {ids.begin() + transcript["prompt_len"].get<int>(), ids.end()};
  }

  nlohmann::json golden_;
  Recorder recorder_;
};

// Largest difference between the golden's best five logits and ours, over recorded positions.
double TopDifference(const nlohmann::json& transcript, const Recorder& recorder) {
  double worst = 0;
  for (const auto& [position, logits] : recorder.logits) {
    if (position >= static_cast<int64_t>(transcript["main_top5_per_pos"].size())) continue;
    for (const auto& entry : transcript["main_top5_per_pos"][position]) {
      worst = std::max(worst, std::abs(logits[entry[0].get<int>()] - entry[1].get<double>()));
    }
  }
  return worst;
}

TEST_F(DraftGoldenTest, Float32GreedyTokensLogitsRoutesAndHidden) {
  auto deployment = Load(/*float32=*/true);
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  for (const auto& transcript : golden_) {
    recorder_.Clear();
    const std::vector<uint32_t> expected = Continuation(transcript);
    auto completions =
        Generate(**deployment,
                 {{.prompt = Prompt(transcript), .max_new = static_cast<int>(expected.size())}});
    ASSERT_TRUE(completions.ok()) << completions.status();
    EXPECT_EQ((*completions)[0].ids, expected);
    EXPECT_EQ(recorder_.logits.size(), expected.size());
    const double worst = TopDifference(transcript, recorder_);
    std::printf("top-5 logits differ by at most %.2g\n", worst);
    EXPECT_LT(worst, 1e-4);

    const int64_t last = transcript["prompt_len"].get<int64_t>() - 1;
    for (size_t i = 0; i < transcript["last_prompt_logits"].size(); ++i) {
      EXPECT_NEAR(recorder_.logits[last][i], transcript["last_prompt_logits"][i].get<double>(),
                  1e-4);
    }
    for (size_t i = 0; i < transcript["hidden_after_norm_last_prompt"].size(); ++i) {
      EXPECT_NEAR(recorder_.hidden[last][i],
                  transcript["hidden_after_norm_last_prompt"][i].get<double>(), 1e-4);
    }
    int compared = 0;
    for (const auto& entry : transcript["routes_layer_pos_experts"]) {
      const int64_t layer = entry[0], position = entry[1];
      if (layer > 3) continue;  // the MTP layer
      std::vector<int> experts = entry[2];
      std::sort(experts.begin(), experts.end());
      EXPECT_EQ((recorder_.routes[{layer, position}]), experts) << layer << " " << position;
      ++compared;
    }
    EXPECT_GT(compared, 0);
  }
}

// Every prompt position's logits: each prefix of the prompt as a sequence of its own.
TEST_F(DraftGoldenTest, Float32LogitsAtEveryPromptPosition) {
  auto deployment = Load(/*float32=*/true);
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  for (const auto& transcript : golden_) {
    recorder_.Clear();
    const std::vector<uint32_t> prompt = Prompt(transcript);
    std::vector<Request> requests;
    for (size_t n = 1; n <= prompt.size(); ++n) {
      requests.push_back({.prompt = {prompt.begin(), prompt.begin() + n}, .max_new = 1});
    }
    ASSERT_TRUE(Generate(**deployment, requests).ok());
    EXPECT_EQ(recorder_.logits.size(), prompt.size());
    EXPECT_LT(TopDifference(transcript, recorder_), 1e-4);
  }
}

// With BF16 products a token may differ only where the reference's two best are close.
TEST_F(DraftGoldenTest, Bfloat16GreedyTokens) {
  auto deployment = Load(/*float32=*/false);
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  for (const auto& transcript : golden_) {
    const std::vector<uint32_t> expected = Continuation(transcript);
    auto completions =
        Generate(**deployment,
                 {{.prompt = Prompt(transcript), .max_new = static_cast<int>(expected.size())}});
    ASSERT_TRUE(completions.ok()) << completions.status();
    const std::vector<uint32_t>& ids = (*completions)[0].ids;
    const auto differs = std::mismatch(ids.begin(), ids.end(), expected.begin()).first;
    if (differs == ids.end()) continue;
    const int64_t position = transcript["prompt_len"].get<int64_t>() - 1 + (differs - ids.begin());
    const auto& top = transcript["main_top5_per_pos"][position];
    EXPECT_LT(top[0][1].get<double>() - top[1][1].get<double>(), 0.25)
        << "token " << differs - ids.begin();
  }
}

}  // namespace
}  // namespace whalepod::testing
