#include "worker/control/command_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace whalepod {
namespace {

using ::testing::HasSubstr;

v1::StepPlan Step(uint64_t step) {
  v1::StepPlan plan;
  plan.set_step(step);
  return plan;
}

TEST(CommandQueueTest, KeepsOrderAndHoldsTwoSteps) {
  CommandQueue queue;
  ASSERT_TRUE(queue.Push(v1::LoadCommand()).ok());
  ASSERT_TRUE(queue.Push(Step(1)).ok());
  ASSERT_TRUE(queue.Push(Step(2)).ok());
  const absl::Status third = queue.Push(Step(3));
  EXPECT_EQ(third.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(third.message()), HasSubstr("step 3 came while 2 steps wait"));
  EXPECT_TRUE(queue.Push(v1::DrainCommand()).ok());

  EXPECT_TRUE(std::holds_alternative<v1::LoadCommand>(*queue.Pop()));
  EXPECT_EQ(std::get<v1::StepPlan>(*queue.Pop()).step(), 1u);
  EXPECT_TRUE(queue.Push(Step(3)).ok());
  EXPECT_EQ(std::get<v1::StepPlan>(*queue.Pop()).step(), 2u);
  EXPECT_TRUE(std::holds_alternative<v1::DrainCommand>(*queue.Pop()));
}

TEST(CommandQueueTest, ClosedGivesNothingMore) {
  CommandQueue queue;
  ASSERT_TRUE(queue.Push(Step(1)).ok());
  queue.Close();
  EXPECT_FALSE(queue.Pop().has_value());
}

TEST(PlanAssemblerTest, PutsChunksTogether) {
  v1::PlanPart part;
  part.mutable_part()->set_rank(3);
  part.mutable_header()->set_checkpoint_dir("somewhere");
  const std::string bytes = part.SerializeAsString();
  PlanAssembler assembler;
  for (size_t i = 0; i < bytes.size(); ++i) {
    v1::PlanChunk chunk;
    chunk.set_epoch(9);
    chunk.set_rank(3);
    chunk.set_data(bytes.substr(i, 1));
    chunk.set_last(i + 1 == bytes.size());
    const auto plan = assembler.Add(chunk);
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_EQ(plan->has_value(), chunk.last());
    if (!chunk.last()) continue;
    EXPECT_EQ((*plan)->epoch, 9u);
    EXPECT_EQ((*plan)->part.header().checkpoint_dir(), "somewhere");
  }
}

TEST(PlanAssemblerTest, MixedOrGarbledChunksAreDataLoss) {
  v1::PlanChunk chunk;
  chunk.set_epoch(1);
  chunk.set_rank(2);
  {
    PlanAssembler assembler;
    ASSERT_TRUE(assembler.Add(chunk).ok());
    v1::PlanChunk other = chunk;
    other.set_epoch(2);
    EXPECT_EQ(assembler.Add(other).status().code(), absl::StatusCode::kDataLoss);
  }
  chunk.set_last(true);
  {
    v1::PlanPart part;
    part.mutable_part()->set_rank(5);
    chunk.set_data(part.SerializeAsString());
    PlanAssembler assembler;
    EXPECT_THAT(std::string(assembler.Add(chunk).status().message()),
                HasSubstr("is of rank 5, the chunks say 2"));
  }
  chunk.set_data("\xff\xff\xff");
  PlanAssembler assembler;
  EXPECT_EQ(assembler.Add(chunk).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace whalepod
