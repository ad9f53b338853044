// Plans of known models: exact totals, the bound plan of r1-draft, errors.
#include "coordinator/plan/planner.h"

#include <filesystem>
#include <random>
#include <set>
#include <string>

#include "base/units.h"
#include "coordinator/checkpoint/inventory.h"
#include "coordinator/plan/catalogue.h"
#include "coordinator/plan/presets.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"
#include "proto/plan/render.h"
#include "proto/plan/validate.h"
#include "tests/coordinator/plan/fake_checkpoint.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

PlanRequest R1Request(int dp, int tp, int ep) {
  PlanRequest request;
  request.model = Preset("deepseek-r1").value();
  request.dp = dp;
  request.tp = tp;
  request.ep = ep;
  return request;
}

TEST(PlannerTest, R1HasItsPublishedSize) {
  const auto plan = MakePlan(R1Request(1, 1, 1));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->total_parameters(), 671'026'419'200);
  EXPECT_EQ(plan->total_tensors(), 90'427);
  EXPECT_EQ(plan->total_bytes(), 673'150'611'808);
  int64_t all = plan->total_bytes();
  for (const auto& skipped : plan->skipped()) all += skipped.bytes();
  EXPECT_EQ(plan->total_tensors() + plan->skipped_size(), 91'991);
  EXPECT_EQ(all, 688'574'839'360);
  EXPECT_TRUE(ValidatePlan(*plan).ok()) << ValidatePlan(*plan);
}

TEST(PlannerTest, SkippedTensorsSayWhy) {
  std::mt19937_64 random(4);
  v1::ModelSpec model = RandomModel(random);
  model.set_tie_word_embeddings(true);
  Checkpoint checkpoint = FakeCheckpoint(model);
  checkpoint.skipped = {"lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq",
                        "model.layers.99.extra.weight"};
  PlanRequest request;
  request.model = model;
  request.checkpoint = &checkpoint;
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->skipped_size(), 3);
  EXPECT_EQ(plan->skipped(0).reason(), "the head is tied to the embedding");
  EXPECT_EQ(plan->skipped(1).reason(), "computed from the config");
  EXPECT_EQ(plan->skipped(2).reason(), "multi-token prediction layer");
}

std::string DraftDir() { return std::string(WHALEPOD_SHARED_DIR) + "/data/r1-draft"; }

TEST(PlannerTest, DraftIsBoundAndValidInEveryLayout) {
  if (!std::filesystem::exists(DraftDir())) GTEST_SKIP() << "skipped, no reference data";
  const auto checkpoint = Checkpoint::Open(DraftDir());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  struct Case {
    int dp, tp, ep, moe_tp;
  };
  for (const Case& c : {Case{1, 1, 0, 0}, Case{1, 2, 0, 0}, Case{1, 4, 0, 0}, Case{2, 1, 0, 0},
                        Case{4, 1, 0, 0}, Case{2, 2, 0, 0}, Case{1, 4, 4, 1}, Case{2, 2, 4, 1},
                        Case{4, 1, 4, 1}, Case{4, 1, 2, 2}, Case{3, 1, 3, 1}}) {
    PlanRequest request;
    request.model = checkpoint->model;
    request.checkpoint = &*checkpoint;
    request.dp = c.dp;
    request.tp = c.tp;
    request.ep = c.ep;
    request.moe_tp = c.moe_tp;
    auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_TRUE(ValidatePlan(*plan).ok()) << ValidatePlan(*plan);
    ASSERT_TRUE(BindPlan(*checkpoint, &*plan).ok());
    const absl::Status valid = ValidatePlan(*plan);
    EXPECT_TRUE(valid.ok()) << LayoutName(plan->layout()) << ": " << valid;
    for (int r = 0; r < plan->ranks_size(); ++r) {
      const absl::Status part = ValidatePlanPart(MakePlanPart(*plan, r));
      EXPECT_TRUE(part.ok()) << part;
    }
  }
}

TEST(PlannerTest, NamesAreTheInventorys) {
  for (const bool tied : {false, true}) {
    v1::ModelSpec model = Preset("deepseek-r1").value();
    model.set_tie_word_embeddings(tied);
    model.set_num_hidden_layers(5);
    std::set<std::string> names;
    for (const InventoryTensor& tensor : Inventory(model)) names.insert(tensor.name);
    PlanRequest request;
    request.model = model;
    const auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    std::set<std::string> planned;
    for (const uint32_t name : plan->ranks(0).slices().name()) {
      planned.insert(plan->strings(static_cast<int>(name)));
    }
    EXPECT_EQ(planned, names);
    EXPECT_EQ(plan->total_tensors(), static_cast<int64_t>(names.size()));
  }
}

TEST(PlannerTest, WhatCannotBeSplitIsNamed) {
  const auto error = [](int dp, int tp, int ep, int moe_tp) {
    PlanRequest request = R1Request(dp, tp, ep);
    request.moe_tp = moe_tp;
    return MakePlan(request).status();
  };
  EXPECT_THAT(error(1, 32, 1, 0).message(),
              HasSubstr("tp = 32 cannot split o_proj (K = 16384, cut in 16 segments); degrees that "
                        "work: 1, 2, 4, 8, 16"));
  EXPECT_THAT(error(3, 1, 0, 0).message(),
              HasSubstr("moe_tp = 3 cannot split moe_intermediate_size = 2048"));
  EXPECT_THAT(error(3, 4, 2, 0).message(), HasSubstr("moe_tp = 6"));
  EXPECT_THAT(error(2, 4, 3, 2).message(),
              HasSubstr("dp * tp = 2 * 4 = 8 ranks, but ep * moe_tp = 3 * 2 = 6"));
  EXPECT_THAT(error(1, 0, 1, 0).message(), HasSubstr("each must be 1 to"));
  PlanRequest request = R1Request(1, 1, 1);
  request.pp = 2;
  EXPECT_EQ(MakePlan(request).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(MakePlan(request).status().message(), HasSubstr("pp = 2"));
  EXPECT_TRUE(error(3, 1, 3, 0).ok()) << "uneven experts";
}

TEST(PlannerTest, WhatDoesNotFitSaysBothNumbers) {
  PlanRequest request = R1Request(1, 8, 1);
  request.gpu = true;
  request.hosts = ParseGpus("8xH100").value();
  absl::Status status = MakePlan(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("weights"));
  EXPECT_THAT(status.message(), HasSubstr("77,309,411,328 bytes (72.00 GiB)"));
  request.hosts = ParseGpus("8xH200").value();
  EXPECT_TRUE(MakePlan(request).ok()) << MakePlan(request).status();
  request.hosts = ParseGpus("7xH200").value();
  EXPECT_THAT(MakePlan(request).status().message(), HasSubstr("8 ranks, the hosts have 7 devices"));

  // A CPU host: 16 GiB for R1.
  request = R1Request(1, 1, 1);
  request.hosts.resize(1);
  request.hosts[0].set_name("here");
  request.hosts[0].set_devices(1);
  request.hosts[0].set_memory_bytes(16 * kGiB);
  status = MakePlan(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("17,179,869,184 bytes (16.00 GiB)"));
  EXPECT_THAT(status.message(), HasSubstr("the largest items: weights"));
  request.hosts[0].set_memory_bytes(1000 * kGiB);
  EXPECT_TRUE(MakePlan(request).ok());
  request.runtime.set_max_model_len(100'000);
  status = MakePlan(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("max_model_len = 100000"));
  request.runtime.set_max_model_len(0);
  request.kv_bytes_per_host = 1000;
  EXPECT_THAT(MakePlan(request).status().message(), HasSubstr("one block of 64 tokens takes"));
  request.runtime.set_max_num_seqs(-3);
  EXPECT_EQ(MakePlan(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlannerTest, KvIsSharedByTheRanksOfAHost) {
  PlanRequest request = R1Request(2, 2, 1);
  request.hosts.resize(2);
  for (int h = 0; h < 2; ++h) {
    request.hosts[static_cast<size_t>(h)].set_name(absl::StrCat("host", h));
    request.hosts[static_cast<size_t>(h)].set_devices(h == 0 ? 3 : 5);
  }
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->ranks(2).host(), 0u);
  EXPECT_EQ(plan->ranks(3).host(), 1u);
  // A third of 512 MiB in whole blocks, on all ranks.
  const int64_t block = 64 * 576 * 2 * 61;
  EXPECT_EQ(plan->runtime().kv_bytes_per_rank(), 512 * kMiB / 3 / block * block);
  EXPECT_EQ(KvBlocks(*plan, plan->ranks(3)), 512 * kMiB / 3 / block);
  EXPECT_EQ(plan->runtime().max_model_len(), 512 * kMiB / 3 / block * 64);
  EXPECT_TRUE(ValidatePlan(*plan).ok()) << ValidatePlan(*plan);
}

TEST(BindTest, WrongCheckpointsAreRefused) {
  std::mt19937_64 random(1);
  const v1::ModelSpec model = RandomModel(random);
  const Checkpoint right = FakeCheckpoint(model);
  PlanRequest request;
  request.model = model;
  request.checkpoint = &right;
  const v1::ShardingPlan plan = MakePlan(request).value();
  const auto bind = [&plan](const Checkpoint& checkpoint) {
    v1::ShardingPlan copy = plan;
    return BindPlan(checkpoint, &copy);
  };
  EXPECT_TRUE(bind(right).ok());
  Checkpoint wrong = right;
  wrong.tensors.erase("model.norm.weight");
  EXPECT_EQ(bind(wrong).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(bind(wrong).message(), HasSubstr("model.norm.weight"));
  wrong = right;
  wrong.tensors["model.norm.weight"].shape = {7};
  EXPECT_THAT(bind(wrong).message(), HasSubstr("[7], the plan expects"));
  wrong = right;
  wrong.tensors["model.norm.weight"].dtype = v1::DTYPE_F16;
  EXPECT_THAT(bind(wrong).message(), HasSubstr("is DTYPE_F16"));
  v1::ShardingPlan bound = plan;
  ASSERT_TRUE(BindPlan(right, &bound).ok());
  EXPECT_EQ(BindPlan(right, &bound).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(CatalogueTest, NamesAliasesAndCounts) {
  EXPECT_EQ(FindGpu("h200")->name, "H200");
  EXPECT_EQ(FindGpu("NVIDIA H100 80GB HBM3")->name, "H100");
  EXPECT_EQ(FindGpu("a100")->name, "A100-80GB");
  EXPECT_EQ(FindGpu("RTX 6000 Ada")->name, "RTX-6000-Ada");
  EXPECT_EQ(FindGpu("Voodoo2").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(FindGpu("Voodoo2").status().message(), HasSubstr("MI300X"));
  auto hosts = ParseGpus("16xH200").value();
  ASSERT_EQ(hosts.size(), 2u);
  EXPECT_EQ(hosts[1].name(), "node1");
  EXPECT_EQ(hosts[1].devices(), 8);
  EXPECT_EQ(hosts[1].memory_bytes(), 8 * static_cast<int64_t>(140.4 * kGiB));
  EXPECT_EQ(ParseGpus("12XH100")->back().devices(), 4);
  EXPECT_EQ(ParseGpus("3x4xB200")->size(), 3u);
  EXPECT_EQ(ParseGpus("GB200")->size(), 1u);
  for (const char* bad : {"", "0xH200", "x", "16x", "99999999999xH200", "16000x16000xH200"}) {
    EXPECT_FALSE(ParseGpus(bad).ok()) << bad;
  }
}

TEST(PresetTest, UnknownNamesListTheKnown) {
  EXPECT_EQ(Preset("deepseek-v3")->name(), "deepseek-v3");
  EXPECT_EQ(Preset("gpt-5").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Preset("gpt-5").status().message(), HasSubstr("deepseek-r1"));
}

TEST(RenderTest, SaysTheExactTotals) {
  PlanRequest request = R1Request(2, 8, 16);
  request.gpu = true;
  request.hosts = ParseGpus("16xH200").value();
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::string text = RenderPlanText(*plan);
  for (const char* part :
       {"671,026,419,200 parameters in 90,427 tensors, 673,150,611,808 bytes",
        "91,991 tensors, 688,574,839,360 bytes", "16 = dp 2 x tp 8 = ep 16 x moe_tp 1", "2-6,10-14",
        "MOE_COMBINE", "model.layers.61.", "node0 to node1: 8 x H200"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
  const auto json = nlohmann::json::parse(RenderPlanJson(*plan));
  EXPECT_EQ(json["model"]["parameters"], 671'026'419'200);
  EXPECT_EQ(json["model"]["all_bytes"], 688'574'839'360);
  EXPECT_EQ(json["ranks"].size(), 16u);
  EXPECT_EQ(json["ranks"][9]["tp"], 1);
  EXPECT_EQ(json["ranks"][9]["ledger"]["device"], static_cast<int64_t>(140.4 * kGiB));
  EXPECT_EQ(json["hash"], HexOf(plan->hash()));
  EXPECT_EQ(json["skipped"].size(), 1564u);
  EXPECT_EQ(json["collectives"][0]["tag"], "EMBED");
}

}  // namespace
}  // namespace whalepod
