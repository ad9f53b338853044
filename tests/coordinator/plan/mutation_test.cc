// Plans that differ from a right one are refused, hashes made right again or not; and no bytes
// crash the validator.
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "coordinator/plan/planner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/hash.h"
#include "proto/plan/validate.h"
#include "tests/coordinator/plan/broken_plans.h"

namespace whalepod {
namespace {

void ExpectRefused(const v1::ShardingPlan& right, const std::string& what,
                   const std::function<void(v1::ShardingPlan*)>& change) {
  v1::ShardingPlan plan = right;
  change(&plan);
  ASSERT_NE(plan.SerializeAsString(), right.SerializeAsString()) << what << " changes nothing";
  EXPECT_FALSE(ValidatePlan(plan).ok()) << what << ", hashes stale";
  HashPlan(&plan);
  const absl::Status status = ValidatePlan(plan);
  EXPECT_FALSE(status.ok()) << what << ", hashes made anew";
  EXPECT_NE(status.code(), absl::StatusCode::kDataLoss) << what << ": " << status;
}

TEST(PlanMutationTest, RightPlansPass) {
  for (const bool bound : {false, true}) {
    const absl::Status status = ValidatePlan(SmallPlan(bound));
    EXPECT_TRUE(status.ok()) << status;
  }
}

TEST(PlanMutationTest, EachRefusalSaysWhatIsWrong) {
  for (const BrokenPlan& broken : BrokenPlans()) {
    v1::ShardingPlan plan = SmallPlan(true);
    broken.change(&plan);
    EXPECT_THAT(ValidatePlan(plan).message(), testing::HasSubstr(broken.refusal));
  }
}

// Every column of the slices of every rank, at random places, by random amounts.
TEST(PlanMutationTest, AnyChangedEntryOfASlice) {
  const v1::ShardingPlan right = SmallPlan(true);
  const auto* descriptor = v1::TensorSlices::descriptor();
  std::mt19937_64 random(5);
  for (int f = 0; f < descriptor->field_count(); ++f) {
    const auto* field = descriptor->field(f);
    for (int trial = 0; trial < 60; ++trial) {
      const int rank = static_cast<int>(random() % 4);
      const int size = right.ranks(rank).slices().name_size();
      const int i = static_cast<int>(random() % static_cast<uint64_t>(size));
      const uint64_t deltas[] = {1, 2, 64, UINT64_MAX, UINT64_MAX - 63, random()};
      const uint64_t delta = deltas[random() % 6];
      // A destination may move if it stays aligned, disjoint and inside; 64 more never does here
      // because slices are packed without gaps.
      ExpectRefused(right,
                    absl::StrCat("rank ", rank, " slice ", i, " ", field->name(), " + ", delta),
                    [&](v1::ShardingPlan* plan) {
                      v1::TensorSlices* s = plan->mutable_ranks(rank)->mutable_slices();
                      const auto* reflection = s->GetReflection();
                      if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_UINT32) {
                        const uint32_t old = reflection->GetRepeatedUInt32(*s, field, i);
                        const uint32_t d = static_cast<uint32_t>(delta) | 1u;
                        reflection->SetRepeatedUInt32(s, field, i, old + d);
                      } else {
                        const uint64_t old = reflection->GetRepeatedUInt64(*s, field, i);
                        reflection->SetRepeatedUInt64(s, field, i, old + delta);
                      }
                    });
      if (HasFatalFailure()) return;
    }
    ExpectRefused(right, absl::StrCat("a shorter ", field->name()), [&](v1::ShardingPlan* plan) {
      v1::TensorSlices* s = plan->mutable_ranks(1)->mutable_slices();
      s->GetReflection()->RemoveLast(s, field);
    });
  }
}

// Slice `i` of rank `from` put in the place of slice `to` of rank `rank`.
void CopySlice(v1::ShardingPlan* plan, int from, int i, int rank, int to) {
  const v1::TensorSlices source = plan->ranks(from).slices();
  v1::TensorSlices* s = plan->mutable_ranks(rank)->mutable_slices();
  const auto* descriptor = v1::TensorSlices::descriptor();
  const auto* reflection = s->GetReflection();
  for (int f = 0; f < descriptor->field_count(); ++f) {
    const auto* field = descriptor->field(f);
    if (field->name() == "dest_offset") continue;
    if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_UINT32) {
      reflection->SetRepeatedUInt32(s, field, to, reflection->GetRepeatedUInt32(source, field, i));
    } else {
      reflection->SetRepeatedUInt64(s, field, to, reflection->GetRepeatedUInt64(source, field, i));
    }
  }
}

TEST(PlanMutationTest, WrongOwners) {
  const v1::ShardingPlan right = SmallPlan(true);
  const v1::TensorSlices& s = right.ranks(0).slices();
  for (int i = 0; i < s.name_size(); ++i) {
    // Another rank's share of the same tensor, where shares differ.
    const v1::TensorSlices& other = right.ranks(3).slices();
    if (s.row0(i) != other.row0(i) || s.col0(i) != other.col0(i) || s.name(i) != other.name(i)) {
      ExpectRefused(right, absl::StrCat("slice ", i, " of rank 3 on rank 0"),
                    [i](v1::ShardingPlan* plan) { CopySlice(plan, 3, i, 0, i); });
    }
    // A tensor twice and another one not at all.
    ExpectRefused(
        right, absl::StrCat("slice ", i, " instead of the one after"),
        [&](v1::ShardingPlan* plan) { CopySlice(plan, 0, i, 0, (i + 1) % s.name_size()); });
  }
}

TEST(PlanMutationTest, EverythingElse) {
  const v1::ShardingPlan right = SmallPlan(true);
  using Change = std::function<void(v1::ShardingPlan*)>;
  const std::vector<std::pair<std::string, Change>> changes = {
      {"format", [](auto* p) { p->set_format_version(2); }},
      {"hidden", [](auto* p) { p->mutable_model()->set_hidden_size(64); }},
      {"huge hidden", [](auto* p) { p->mutable_model()->set_hidden_size(INT64_MAX); }},
      {"negative heads", [](auto* p) { p->mutable_model()->set_num_attention_heads(-4); }},
      {"blocks", [](auto* p) { p->mutable_model()->set_fp8_block_rows(0); }},
      {"tied",
       [](auto* p) {
         p->mutable_model()->set_tie_word_embeddings(!p->model().tie_word_embeddings());
       }},
      {"tp", [](auto* p) { p->mutable_layout()->set_tp(4); }},
      {"tp and dp",
       [](auto* p) {
         p->mutable_layout()->set_tp(4);
         p->mutable_layout()->set_dp(1);
       }},
      {"zero tp", [](auto* p) { p->mutable_layout()->set_tp(0); }},
      {"expert moved", [](auto* p) { p->mutable_layout()->set_expert_to_ep(0, 1); }},
      {"expert nowhere", [](auto* p) { p->mutable_layout()->set_expert_to_ep(0, 7); }},
      {"expert groups", [](auto* p) { p->mutable_model()->set_n_group(3); }},
      {"groups kept", [](auto* p) { p->mutable_model()->set_topk_group(9); }},
      {"experts of a group", [](auto* p) { p->mutable_model()->set_n_group(4); }},
      {"odd rope", [](auto* p) { p->mutable_model()->set_qk_rope_head_dim(3); }},
      {"epsilon", [](auto* p) { p->mutable_model()->set_rms_norm_eps(-1); }},
      {"theta", [](auto* p) { p->mutable_model()->set_rope_theta(NAN); }},
      {"expert table", [](auto* p) { p->mutable_layout()->add_expert_to_ep(0); }},
      {"dtype", [](auto* p) { p->mutable_runtime()->set_compute_dtype(v1::DTYPE_F8_E4M3); }},
      {"context", [](auto* p) { p->mutable_runtime()->set_max_model_len(5000); }},
      {"kv", [](auto* p) { p->mutable_runtime()->set_kv_bytes_per_rank(1); }},
      {"batch", [](auto* p) { p->mutable_runtime()->set_max_num_batched_tokens(1 << 30); }},
      {"no hosts", [](auto* p) { p->clear_hosts(); }},
      {"devices", [](auto* p) { p->mutable_hosts(0)->set_devices(3); }},
      {"memory", [](auto* p) { p->mutable_hosts(0)->set_memory_bytes(4 << 20); }},
      {"same device", [](auto* p) { p->mutable_ranks(1)->set_device(0); }},
      {"rank number", [](auto* p) { p->mutable_ranks(1)->set_rank(2); }},
      {"rank gone", [](auto* p) { p->mutable_ranks()->RemoveLast(); }},
      {"layers", [](auto* p) { p->mutable_ranks(2)->set_layer_end(1); }},
      {"group name", [](auto* p) { p->mutable_groups(0)->set_name("tp0"); }},
      {"group order", [](auto* p) { p->mutable_groups(0)->mutable_ranks()->SwapElements(0, 1); }},
      {"group gone", [](auto* p) { p->mutable_groups()->RemoveLast(); }},
      {"own groups", [](auto* p) { p->mutable_ranks(0)->add_groups(99); }},
      {"own groups gone", [](auto* p) { p->mutable_ranks(0)->clear_groups(); }},
      {"schedule order",
       [](auto* p) { p->mutable_ranks(2)->mutable_schedule()->mutable_tag()->SwapElements(1, 2); }},
      {"schedule group",
       [](auto* p) { p->mutable_ranks(2)->mutable_schedule()->set_group(1, 4'000'000'000u); }},
      {"schedule bytes",
       [](auto* p) { p->mutable_ranks(2)->mutable_schedule()->set_bytes_per_token(1, 3); }},
      {"schedule end",
       [](auto* p) { p->mutable_ranks(2)->mutable_schedule()->mutable_op()->RemoveLast(); }},
      {"schedule empty", [](auto* p) { p->mutable_ranks(2)->clear_schedule(); }},
      {"schedule empty everywhere",
       [](auto* p) {
         for (auto& r : *p->mutable_ranks()) r.clear_schedule();
       }},
      {"weights",
       [](auto* p) {
         auto* item = p->mutable_ranks(0)->mutable_ledger()->mutable_items(0);
         item->set_bytes(item->bytes() - 64);
       }},
      {"kv item",
       [](auto* p) { p->mutable_ranks(0)->mutable_ledger()->mutable_items(1)->set_bytes(0); }},
      {"negative reserve",
       [](auto* p) { p->mutable_ranks(0)->mutable_ledger()->mutable_items(4)->set_bytes(-1); }},
      {"item gone",
       [](auto* p) { p->mutable_ranks(0)->mutable_ledger()->mutable_items()->RemoveLast(); }},
      {"device bytes", [](auto* p) { p->mutable_ranks(0)->mutable_ledger()->set_device_bytes(1); }},
      {"name twice", [](auto* p) { p->set_strings(1, p->strings(0)); }},
      {"name", [](auto* p) { p->set_strings(1, "model.other"); }},
      {"names gone", [](auto* p) { p->clear_strings(); }},
      {"file elsewhere",
       [](auto* p) { p->set_strings(p->strings_size() - 1, "../c.safetensors"); }},
      {"skipped", [](auto* p) { p->mutable_skipped(0)->set_name(1 << 20); }},
      {"parameters", [](auto* p) { p->set_total_parameters(1); }},
      {"bytes", [](auto* p) { p->set_total_bytes(p->total_bytes() + 1); }},
      {"unbound", [](auto* p) { p->set_bound(false); }},
  };
  for (const auto& [what, change] : changes) ExpectRefused(right, what, change);
}

TEST(PlanMutationTest, HashesAreChecked) {
  const v1::ShardingPlan right = SmallPlan(false);
  v1::ShardingPlan plan = right;
  plan.mutable_hosts(0)->set_name("other");
  EXPECT_EQ(ValidatePlan(plan).code(), absl::StatusCode::kDataLoss);
  plan = right;
  plan.mutable_ranks(3)->mutable_ledger()->mutable_items(4)->set_formula("other");
  EXPECT_EQ(ValidatePlan(plan).code(), absl::StatusCode::kDataLoss);
  plan = right;
  plan.clear_hash();
  EXPECT_EQ(ValidatePlan(plan).code(), absl::StatusCode::kDataLoss);
}

// Damaged bytes either do not parse, or are refused, or say the same plan.
TEST(PlanMutationTest, DamagedBytes) {
  const v1::ShardingPlan right = SmallPlan(true);
  const std::string bytes = right.SerializeAsString();
  std::mt19937_64 random(9);
  const google::protobuf::LogSilencer silence;
  int parsed = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string damaged = bytes;
    const int flips = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < flips; ++i) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    if (random() % 8 == 0) damaged.resize(random() % damaged.size());
    v1::ShardingPlan plan;
    if (!plan.ParseFromString(damaged)) continue;
    ++parsed;
    if (ValidatePlan(plan).ok()) {
      plan.DiscardUnknownFields();
      EXPECT_EQ(plan.SerializeAsString(), bytes);
    }
    HashPlan(&plan);
    (void)ValidatePlan(plan);
  }
  EXPECT_GT(parsed, 100);
  EXPECT_FALSE(ValidatePlan(v1::ShardingPlan()).ok());
  EXPECT_FALSE(ValidatePlanPart(v1::PlanPart()).ok());
}

}  // namespace
}  // namespace whalepod
