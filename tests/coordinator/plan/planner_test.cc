// Plans of known models: exact totals, the bound plan of r1-draft, errors.
#include "coordinator/plan/planner.h"

#include <filesystem>

#include "coordinator/plan/catalogue.h"
#include "coordinator/plan/presets.h"
#include "gtest/gtest.h"
#include "proto/plan/hash.h"
#include "proto/plan/validate.h"

namespace whalepod {
namespace {

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

}  // namespace
}  // namespace whalepod
