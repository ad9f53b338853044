// What the executor refuses, and what it does with rows that cannot be sampled.
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/layout.h"
#include "tests/worker/model/harness.h"

namespace whalepod::testing {
namespace {

using ::testing::HasSubstr;

const char kFolder[] = WHALEPOD_GOLDEN_DIR "/r1_like_fp8";

class ExecutorTest : public ::testing::Test {
 protected:
  void SetUp() override { Load({.checkpoint = kFolder}); }

  void Load(const DeploymentOptions& setup) {
    auto deployment = Deployment::Create(setup);
    ASSERT_TRUE(deployment.ok()) << deployment.status();
    deployment_ = *std::move(deployment);
  }

  // A step that enters `tokens` in slot 0 and runs `chunk` of them in blocks {3}.
  static v1::StepPlan Enter(std::vector<uint32_t> tokens, uint32_t chunk) {
    v1::StepPlan step;
    v1::NewSequence* entry = step.add_new_sequences();
    entry->set_sequence(7);
    entry->mutable_tokens()->Add(tokens.begin(), tokens.end());
    entry->set_prompt_len(static_cast<uint32_t>(tokens.size()));
    step.add_granted()->add_blocks(3);
    step.add_prefill()->set_tokens(chunk);
    step.add_group_tokens(chunk);
    return step;
  }

  void ExpectRefused(const v1::StepPlan& step, const std::string& what) {
    const auto result = deployment_->Step(step);
    EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition) << result.status();
    EXPECT_THAT(std::string(result.status().message()), HasSubstr(what));
    // It stays failed.
    EXPECT_EQ(deployment_->Step({}).status().code(), absl::StatusCode::kFailedPrecondition);
  }

  std::unique_ptr<Deployment> deployment_;
};

TEST_F(ExecutorTest, PrefillThenDecodeUntilStopped) {
  auto results = deployment_->Step(Enter({1, 2, 3}, 2));
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(results->at(0).tokens_size(), 0);
  v1::StepPlan step;
  step.add_prefill()->set_tokens(1);
  step.add_group_tokens(1);
  for (uint32_t index = 0; index < 4; ++index) {
    results = deployment_->Step(step);
    ASSERT_TRUE(results.ok()) << results.status();
    ASSERT_EQ(results->at(0).tokens_size(), 1);
    EXPECT_EQ(results->at(0).tokens(0).sequence(), 7u);
    EXPECT_EQ(results->at(0).tokens(0).index(), index);
    step.clear_prefill();  // it decodes by itself
  }
  v1::StepPlan stop;
  stop.add_stopped();
  results = deployment_->Step(stop);
  ASSERT_TRUE(results.ok()) << results.status();
  EXPECT_EQ(results->at(0).tokens_size(), 0);
  EXPECT_EQ(results->at(0).digest(), 0xcbf29ce484222325u);  // of nothing
}

TEST_F(ExecutorTest, RefusesUnknownSlot) {
  v1::StepPlan step;
  step.add_stopped()->set_slot(5);
  ExpectRefused(step, "slot 5 is empty");
}

TEST_F(ExecutorTest, RefusesSlotOutOfRange) {
  v1::StepPlan step;
  step.add_stopped()->set_slot(16);
  ExpectRefused(step, "there are 16");
}

TEST_F(ExecutorTest, RefusesBlockOutOfRange) {
  v1::StepPlan step = Enter({1, 2, 3}, 3);
  step.mutable_granted(0)->add_blocks(100000);
  ExpectRefused(step, "block 100000");
}

TEST_F(ExecutorTest, RefusesTokensWithoutBlocks) {
  v1::StepPlan step = Enter({1, 2, 3}, 3);
  step.clear_granted();
  ExpectRefused(step, "its blocks hold 0");
}

TEST_F(ExecutorTest, RefusesChunkPastTheEnd) {
  ExpectRefused(Enter({1, 2, 3}, 4), "computed 0 of 3");
}

TEST_F(ExecutorTest, RefusesAnotherCountOfRows) {
  v1::StepPlan step = Enter({1, 2, 3}, 3);
  step.set_group_tokens(0, 2);
  ExpectRefused(step, "3 rows in this step, the coordinator counts 2");
}

TEST_F(ExecutorTest, RefusesTokenOutsideTheVocabulary) {
  ExpectRefused(Enter({1, 256}, 2), "token 256");
}

TEST_F(ExecutorTest, RefusesASlotInUse) {
  ASSERT_TRUE(deployment_->Step(Enter({1, 2}, 1)).ok());
  v1::StepPlan step = Enter({1}, 1);
  ExpectRefused(step, "holds sequence 7");
}

// A token whose embedding is NaN: its request fails by name; the one beside it does not notice.
TEST_F(ExecutorTest, NanFailsItsOwnRequestOnly) {
  for (const DeploymentOptions& setup :
       {DeploymentOptions{.checkpoint = kFolder},
        DeploymentOptions{.checkpoint = kFolder, .dp = 2, .tp = 2, .ep = 4}}) {
    Load(setup);
    const std::vector<Request> requests = {{.prompt = {9, 8, 7}, .max_new = 6},
                                           {.prompt = {9, 250, 7}, .max_new = 6},
                                           {.prompt = {4, 4}, .max_new = 6, .dp_group = 1}};
    auto before = Generate(*deployment_, requests);
    ASSERT_TRUE(before.ok()) << before.status();
    for (int r = 0; r < setup.dp * setup.tp; ++r) {
      const auto table = deployment_->weights(r).Plain(v1::TENSOR_ROLE_EMBED, 0);
      ASSERT_TRUE(table.ok());
      const int64_t row = 250 - (r % setup.tp) * (256 / setup.tp);
      if (row < 0 || row >= table->rows) continue;
      BF16* values = static_cast<BF16*>(const_cast<void*>(table->data)) + row * table->cols;
      std::fill_n(values, table->cols, ToBF16(std::numeric_limits<float>::quiet_NaN()));
    }
    auto after = Generate(*deployment_, requests);
    ASSERT_TRUE(after.ok()) << after.status();
    EXPECT_EQ(after->at(1).error, "logits are NaN");
    EXPECT_EQ(after->at(1).ids.size(), 1u);
    for (int other : {0, 2}) {
      EXPECT_EQ(after->at(other).error, "");
      EXPECT_EQ(after->at(other).ids, before->at(other).ids);
      EXPECT_EQ(after->at(other).logprobs, before->at(other).logprobs);
    }
  }
}

}  // namespace
}  // namespace whalepod::testing
