// A request's tokens and logprobs do not depend on its batch, its chunks or a recompute, to the
// bit.
#include "gtest/gtest.h"
#include "tests/worker/model/golden.h"
#include "tests/worker/model/harness.h"
#include "tests/worker/model/random_checkpoint.h"

namespace whalepod::testing {
namespace {

constexpr int kNew = 24;

struct ModelCase {
  std::string name, folder;
  bool float32 = false, w8a8 = false;
};

std::vector<ModelCase> Models() {
  const std::string draft = WHALEPOD_SHARED_DIR "/data/r1-draft";
  const std::string random = WHALEPOD_GOLDEN_DIR "/r1_like_fp8";
  return {{"draft", draft},
          {"draft_w8a8", draft, false, true},
          {"random", random},
          {"random_f32", random, true},
          {"random_w8a8", random, false, true}};
}

class InvarianceTest : public ::testing::TestWithParam<ModelCase> {
 protected:
  void SetUp() override {
    if (ReadJson(GetParam().folder + "/config.json").is_discarded()) {
      GTEST_SKIP() << "skipped, no reference data";
    }
    // 150 tokens, so that it spans blocks and chunks.
    for (uint32_t i = 0; i < 150; ++i) prompt_.push_back(2 + (i * 37 + i * i) % 200);
  }

  absl::StatusOr<std::unique_ptr<Deployment>> Load(int64_t max_tokens, int dp = 1, int tp = 1) {
    return Deployment::Create({.checkpoint = GetParam().folder,
                               .dp = dp,
                               .tp = tp,
                               .ep = dp * tp,
                               .moe_tp = 1,
                               .float32 = GetParam().float32,
                               .w8a8 = GetParam().w8a8,
                               .max_tokens = max_tokens});
  }

  Request Subject() const {
    return {.prompt = prompt_, .max_new = kNew, .temperature = 0.6f, .seed = 7, .logprobs = 5};
  }

  // The subject alone, its prompt in one piece.
  Completion Alone() {
    auto deployment = Load(512);
    EXPECT_TRUE(deployment.ok()) << deployment.status();
    auto completions = Generate(**deployment, {Subject()});
    EXPECT_TRUE(completions.ok()) << completions.status();
    return completions->at(0);
  }

  static void ExpectSame(const Completion& a, const Completion& b) {
    EXPECT_EQ(a.ids, b.ids);
    EXPECT_EQ(a.logprobs, b.logprobs);
    ASSERT_EQ(a.top.size(), b.top.size());
    for (size_t t = 0; t < a.top.size(); ++t) {
      for (int k = 0; k < 5; ++k) EXPECT_EQ(a.top[t][k].logprob(), b.top[t][k].logprob());
    }
  }

  std::vector<uint32_t> prompt_;
};

TEST_P(InvarianceTest, PromptInChunks) {
  const Completion alone = Alone();
  for (int64_t chunk : {1, 7, 64, 512}) {
    SCOPED_TRACE(chunk);
    auto deployment = Load(512);
    ASSERT_TRUE(deployment.ok()) << deployment.status();
    Request request = Subject();
    request.chunk = chunk;
    auto completions = Generate(**deployment, {request});
    ASSERT_TRUE(completions.ok()) << completions.status();
    ExpectSame(completions->at(0), alone);
  }
}

TEST_P(InvarianceTest, AmongFifteenOthers) {
  const Completion alone = Alone();
  auto deployment = Load(64);
  ASSERT_TRUE(deployment.ok()) << deployment.status();
  std::vector<Request> requests;
  for (uint32_t i = 0; i < 16; ++i) {
    Request other{.prompt = {prompt_.begin() + i, prompt_.begin() + 3 * i + 5},
                  .max_new = static_cast<int>(3 + 5 * (i % 7)),
                  .temperature = 0.3f * static_cast<float>(i % 3),
                  .seed = i,
                  .logprobs = static_cast<int>(i) - 1,
                  .chunk = 1 + 3 * static_cast<int64_t>(i % 5)};
    requests.push_back(i == 9 ? Subject() : other);
  }
  auto completions = Generate(**deployment, requests);
  ASSERT_TRUE(completions.ok()) << completions.status();
  ExpectSame(completions->at(9), alone);
}

// A sequence that comes back with its generated tokens goes on as if it had never left, also where
// a chunk holds the end of the prompt and generated tokens.
TEST_P(InvarianceTest, Recompute) {
  const Completion alone = Alone();
  for (int64_t chunk : {0, 7, 64}) {
    for (int kept : {1, 10, 23}) {
      SCOPED_TRACE(std::to_string(kept) + " tokens kept, chunks of " + std::to_string(chunk));
      auto deployment = Load(512);
      ASSERT_TRUE(deployment.ok()) << deployment.status();
      Request request = Subject();
      request.generated = {alone.ids.begin(), alone.ids.begin() + kept};
      request.max_new = kNew - kept;
      request.chunk = chunk;
      auto completions = Generate(**deployment, {request});
      ASSERT_TRUE(completions.ok()) << completions.status();
      Completion whole = alone;
      whole.ids.erase(whole.ids.begin(), whole.ids.begin() + kept);
      whole.logprobs.erase(whole.logprobs.begin(), whole.logprobs.begin() + kept);
      whole.top.erase(whole.top.begin(), whole.top.begin() + kept);
      ExpectSame(completions->at(0), whole);
    }
  }
}

TEST_P(InvarianceTest, PathsOfInstructions) {
  const Completion alone = Alone();
  for (IsaPath isa : {IsaPath::kPortable, IsaPath::kAvx2, IsaPath::kAvx512}) {
    if (!CreateCpuBackend({.isa = isa}).ok()) continue;
    auto deployment = Deployment::Create({.checkpoint = GetParam().folder,
                                          .float32 = GetParam().float32,
                                          .w8a8 = GetParam().w8a8,
                                          .max_tokens = 512,
                                          .isa = isa});
    ASSERT_TRUE(deployment.ok()) << deployment.status();
    auto completions = Generate(**deployment, {Subject()});
    ASSERT_TRUE(completions.ok()) << completions.status();
    ExpectSame(completions->at(0), alone);
  }
}

INSTANTIATE_TEST_SUITE_P(All, InvarianceTest, ::testing::ValuesIn(Models()),
                         [](const auto& info) { return info.param.name; });

// More rows than the expert and the absorbed blocks hold at once: a step of 1,199 rows, 299 of them
// generated, against the same tokens computed in small steps.
TEST(LongStepTest, BlocksThatRunInParts) {
  auto folder = WriteRandomCheckpoint({});
  ASSERT_TRUE(folder.ok()) << folder.status();
  Request request{.max_new = 300, .temperature = 0.6f, .seed = 3};
  for (uint32_t i = 0; i < 900; ++i) request.prompt.push_back((i * i * 7 + i) % 523);
  const auto serve = [&](int64_t max_tokens, int tp, const Request& r) -> Completion {
    auto deployment = Deployment::Create({.checkpoint = *folder,
                                          .tp = tp,
                                          .max_tokens = max_tokens,
                                          .max_seqs = 2,
                                          .max_model_len = 1280});
    EXPECT_TRUE(deployment.ok()) << deployment.status();
    if (!deployment.ok()) return {};
    auto completions = Generate(**deployment, {r});
    EXPECT_TRUE(completions.ok()) << completions.status();
    return completions.ok() ? completions->at(0) : Completion();
  };
  const Completion small = serve(64, 1, request);
  ASSERT_EQ(small.ids.size(), 300u);
  Request again = request;
  again.generated.assign(small.ids.begin(), small.ids.end() - 1);
  again.max_new = 1;
  for (int tp : {1, 2}) {  // tp = 2 has moe_tp = 2
    const Completion large = serve(1280, tp, again);
    ASSERT_EQ(large.ids.size(), 1u);
    EXPECT_EQ(large.ids[0], small.ids.back());
    EXPECT_EQ(large.logprobs[0], small.logprobs.back());
  }
}

}  // namespace
}  // namespace whalepod::testing
