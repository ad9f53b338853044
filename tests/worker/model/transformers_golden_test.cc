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

double WorstLogit(const nlohmann::json& transcript, const Recorder& recorder) {
  const int64_t last = static_cast<int64_t>(transcript["prompt"].size()) - 1;
  double worst = 0;
  const auto& logits = recorder.logits.at(last);
  for (size_t i = 0; i < logits.size(); ++i) {
    worst =
        std::max(worst, std::abs(logits[i] - transcript["last_prompt_logits"][i].get<double>()));
  }
  for (size_t step = 0; step < transcript["top5"].size(); ++step) {
    for (const auto& entry : transcript["top5"][step]) {
      worst = std::max(worst, std::abs(recorder.logits.at(last + step)[entry[0].get<int>()] -
                                       entry[1].get<double>()));
    }
  }
  return worst;
}

TEST_P(TransformersGoldenTest, TokensLogitsAndRoutes) {
  const std::string folder = std::string(WHALEPOD_GOLDEN_DIR) + "/" + GetParam();
  const nlohmann::json golden = ReadJson(folder + "/golden.json");
  ASSERT_FALSE(golden.is_discarded());
  Recorder recorder;
  auto deployment = Deployment::Create({.checkpoint = folder,
                                        .float32 = true,
                                        .w8a8 = golden["w8a8"].get<bool>(),
                                        .observer = &recorder});
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  const v1::ModelSpec& model = (*deployment)->plan().model();
  for (const auto& transcript : golden["transcripts"]) {
    recorder.Clear();
    const auto expected = transcript["generated"].get<std::vector<uint32_t>>();
    auto completions =
        Generate(**deployment, {{.prompt = transcript["prompt"].get<std::vector<uint32_t>>(),
                                 .max_new = static_cast<int>(expected.size())}});
    ASSERT_TRUE(completions.ok()) << completions.status();
    EXPECT_EQ((*completions)[0].ids, expected);
    const double sigma = transcript["sigma"].get<double>();
    const double worst = WorstLogit(transcript, recorder) / sigma;
    std::printf("%s: logits differ by at most %.2g sigma\n", GetParam().c_str(), worst);
    if (getenv("DBG")) {
      const int64_t last = static_cast<int64_t>(transcript["prompt"].size()) - 1;
      for (size_t step = 0; step < transcript["top5"].size(); ++step) {
        double w = 0;
        for (const auto& entry : transcript["top5"][step])
          w = std::max(w, std::abs(recorder.logits.at(last + step)[entry[0].get<int>()] -
                                   entry[1].get<double>()));
        std::printf("%zu:%.1e ", step, w / sigma);
      }
      std::printf("\n");
    }
    EXPECT_LE(worst, 1e-4);
    for (size_t m = 0; m < transcript["routes"].size(); ++m) {
      const int64_t layer = model.first_k_dense_replace() + static_cast<int64_t>(m);
      for (size_t p = 0; p < transcript["routes"][m].size(); ++p) {
        EXPECT_EQ((recorder.routes[{layer, static_cast<int64_t>(p)}]),
                  transcript["routes"][m][p].get<std::vector<int>>())
            << "layer " << layer << " position " << p;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TransformersGoldenTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace whalepod::testing
