#include "proto/plan/hash.h"

#include "gtest/gtest.h"

namespace whalepod {
namespace {

v1::ShardingPlan TwoRanks() {
  v1::ShardingPlan plan;
  plan.set_format_version(1);
  plan.mutable_model()->set_hidden_size(128);
  plan.mutable_layout()->set_tp(2);
  plan.mutable_runtime()->set_max_model_len(7);
  plan.add_hosts()->set_name("here");
  plan.add_groups()->set_name("world");
  plan.add_strings("a");
  plan.add_skipped()->set_bytes(3);
  plan.set_bound(true);
  plan.set_checkpoint_dir("dir");
  plan.set_total_parameters(1);
  plan.set_total_tensors(2);
  plan.set_total_bytes(3);
  for (uint32_t r = 0; r < 2; ++r) plan.add_ranks()->set_rank(r);
  HashPlan(&plan);
  return plan;
}

TEST(HashTest, Sha256OfKnownText) {
  EXPECT_EQ(HexOf(Sha256("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// A field added to ShardingPlan must be in the header, or nobody would attest it.
TEST(HashTest, HeaderHasEveryFieldButRanks) {
  const v1::ShardingPlan plan = TwoRanks();
  const v1::ShardingPlan header = HeaderOf(plan);
  EXPECT_EQ(header.ranks_size(), 0);
  const auto* descriptor = plan.GetDescriptor();
  const auto* reflection = plan.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> set;
  reflection->ListFields(plan, &set);
  EXPECT_EQ(static_cast<int>(set.size()), descriptor->field_count()) << "set the new field above";
  v1::ShardingPlan without = plan;
  without.clear_ranks();
  EXPECT_EQ(header.SerializeAsString(), without.SerializeAsString());
}

TEST(HashTest, PartsAreCheckedByTheirReceiver) {
  const v1::ShardingPlan plan = TwoRanks();
  const v1::PlanPart part = MakePlanPart(plan, 1);
  EXPECT_TRUE(CheckPlanPart(part).ok());
  EXPECT_EQ(PartHash(part.part()), part.part().hash());

  v1::PlanPart changed = part;
  changed.mutable_part()->set_layer_end(9);
  EXPECT_EQ(CheckPlanPart(changed).code(), absl::StatusCode::kDataLoss);
  changed.mutable_part()->set_hash(PartHash(changed.part()));  // right, but not the plan's
  EXPECT_EQ(CheckPlanPart(changed).code(), absl::StatusCode::kDataLoss);
  changed.set_rank_hashes(1, changed.part().hash());  // then the root is not
  EXPECT_EQ(CheckPlanPart(changed).code(), absl::StatusCode::kDataLoss);

  changed = part;
  changed.mutable_header()->mutable_layout()->set_tp(3);
  EXPECT_EQ(CheckPlanPart(changed).code(), absl::StatusCode::kDataLoss);
  changed = part;
  changed.mutable_rank_hashes(0)->at(5) ^= 1;  // another rank's part
  EXPECT_EQ(CheckPlanPart(changed).code(), absl::StatusCode::kDataLoss);
  changed = part;
  changed.mutable_part()->set_rank(0);
  EXPECT_EQ(CheckPlanPart(changed).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace whalepod
