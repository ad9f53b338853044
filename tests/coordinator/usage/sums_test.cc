#include "coordinator/usage/sums.h"

#include "gtest/gtest.h"

namespace whalepod {
namespace {

v1::Usage UsageOf(uint32_t prompt, uint32_t cached, uint32_t completion, uint32_t reasoning,
                  double cost) {
  v1::Usage usage;
  usage.set_prompt_tokens(prompt);
  usage.set_cached_tokens(cached);
  usage.set_completion_tokens(completion);
  usage.set_reasoning_tokens(reasoning);
  usage.set_cost_dollars(cost);
  return usage;
}

void ExpectUsage(const v1::Usage& found, const v1::Usage& expected) {
  EXPECT_EQ(found.prompt_tokens(), expected.prompt_tokens());
  EXPECT_EQ(found.cached_tokens(), expected.cached_tokens());
  EXPECT_EQ(found.completion_tokens(), expected.completion_tokens());
  EXPECT_EQ(found.reasoning_tokens(), expected.reasoning_tokens());
  EXPECT_DOUBLE_EQ(found.cost_dollars(), expected.cost_dollars());
}

TEST(UsageSums, RequestsAddUp) {
  v1::Usage sum;
  AddRequest(UsageOf(10, 4, 20, 5, 0.5), &sum);
  AddRequest(UsageOf(100, 40, 200, 50, 0.25), &sum);
  ExpectUsage(sum, UsageOf(110, 44, 220, 55, 0.75));
}

// In whatever order they end.
TEST(UsageSums, ChoicesShareTheirPrompt) {
  const v1::Usage first = UsageOf(10, 4, 20, 5, 0.5), second = UsageOf(10, 8, 30, 7, 0.25);
  v1::Usage there, back;
  AddChoice(first, 0, &there);
  AddChoice(second, 1, &there);
  AddChoice(second, 1, &back);
  AddChoice(first, 0, &back);
  ExpectUsage(there, UsageOf(10, 4, 50, 12, 0.75));
  ExpectUsage(back, there);
}

}  // namespace
}  // namespace whalepod
