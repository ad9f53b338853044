// Random checkpoints that together cover every option of the family, against transformers
// (tests/golden). Runs on one rank in F32.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "gtest/gtest.h"
#include "tests/worker/model/golden.h"
#include "tests/worker/model/harness.h"

namespace whalepod::testing {
namespace {

std::vector<std::string> Cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(WHALEPOD_GOLDEN_DIR)) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class TransformersGoldenTest : public ::testing::TestWithParam<std::string> {};

// By generated token: the largest difference of a known logit of the position that it came from (of
// all logits for the first, of the best five for the others), in sigmas.
std::vector<double> Differences(const nlohmann::json& transcript, const Recorder& recorder) {
  const int64_t last = static_cast<int64_t>(transcript["prompt"].size()) - 1;
  const double sigma = transcript["sigma"].get<double>();
  std::vector<double> worst(transcript["top5"].size(), 0);
  const auto compare = [&](size_t step, int id, double expected) {
    const double difference = std::abs(recorder.logits.at(last + step)[id] - expected) / sigma;
    worst[step] = std::max(worst[step], difference);
  };
  const auto& first = transcript["last_prompt_logits"];
  for (size_t i = 0; i < first.size(); ++i) compare(0, static_cast<int>(i), first[i]);
  for (size_t step = 0; step < worst.size(); ++step) {
    for (const auto& entry : transcript["top5"][step]) compare(step, entry[0], entry[1]);
  }
  return worst;
}

void ExpectRoutes(const nlohmann::json& transcript, int64_t first_layer, Recorder& recorder) {
  for (size_t m = 0; m < transcript["routes"].size(); ++m) {
    const int64_t layer = first_layer + static_cast<int64_t>(m);
    for (size_t p = 0; p < transcript["routes"][m].size(); ++p) {
      EXPECT_EQ((recorder.routes[{layer, static_cast<int64_t>(p)}]),
                transcript["routes"][m][p].get<std::vector<int>>())
          << "layer " << layer << " position " << p;
    }
  }
}

TEST_P(TransformersGoldenTest, TokensLogitsAndRoutes) {
  const std::string folder = std::string(WHALEPOD_GOLDEN_DIR) + "/" + GetParam();
  const nlohmann::json golden = ReadJson(folder + "/golden.json");
  ASSERT_FALSE(golden.is_discarded());
  const bool w8a8 = golden["w8a8"].get<bool>();
  Recorder recorder;
  auto deployment = Deployment::Create(
      {.checkpoint = folder, .float32 = true, .w8a8 = w8a8, .observer = &recorder});
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  size_t exact = 0;  // tokens before the first that differs, over transcripts
  for (const auto& transcript : golden["transcripts"]) {
    recorder.Clear();
    const auto expected = transcript["generated"].get<std::vector<uint32_t>>();
    auto completions =
        Generate(**deployment, {{.prompt = transcript["prompt"].get<std::vector<uint32_t>>(),
                                 .max_new = static_cast<int>(expected.size())}});
    ASSERT_TRUE(completions.ok()) << completions.status();
    const std::vector<double> differences = Differences(transcript, recorder);
    const auto differs =
        std::find_if(differences.begin(), differences.end(), [](double d) { return !(d <= 1e-4); });
    const size_t same = differs - differences.begin();
    exact += same;
    std::printf("%s: %zu of %zu tokens' logits within 1e-4 sigma, first %.2g\n", GetParam().c_str(),
                same, differences.size(), differences[0]);
    EXPECT_TRUE(
        std::equal(expected.begin(), expected.begin() + same, (*completions)[0].ids.begin()));
    if (w8a8) {
      EXPECT_LT(differences[0], 0.25);
      continue;
    }
    EXPECT_EQ(same, differences.size());
    EXPECT_EQ((*completions)[0].ids, expected);
    ExpectRoutes(transcript, (*deployment)->plan().model().first_k_dense_replace(), recorder);
  }
  // Rounding to E4M3 has wide steps: two implementations part at the first value that their last
  // bits put on different sides of one, and stay apart, since the latents are then different.
  EXPECT_GE(exact, w8a8 ? 16 : 1);
}

INSTANTIATE_TEST_SUITE_P(All, TransformersGoldenTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace whalepod::testing
