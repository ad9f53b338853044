// Writes plans for plan_fuzz to start from: plan_seeds FOLDER.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "base/check.h"
#include "coordinator/plan/planner.h"
#include "tests/coordinator/plan/broken_plans.h"
#include "tests/coordinator/plan/fake_checkpoint.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: plan_seeds FOLDER\n");
    return 2;
  }
  const std::filesystem::path folder = argv[1];
  int broken_plans = 0;
  for (const whalepod::BrokenPlan& broken : whalepod::BrokenPlans()) {
    whalepod::v1::ShardingPlan plan = whalepod::SmallPlan(true);
    broken.change(&plan);
    std::ofstream(folder / ("broken" + std::to_string(broken_plans++)), std::ios::binary)
        << plan.SerializeAsString();
  }
  std::mt19937_64 random(1);
  int written = 0;
  for (int i = 0; written < 8 && i < 1000; ++i) {
    const whalepod::v1::ModelSpec model = whalepod::RandomModel(random);
    const whalepod::Checkpoint checkpoint = whalepod::FakeCheckpoint(model);
    whalepod::PlanRequest request;
    request.model = model;
    request.checkpoint = &checkpoint;
    whalepod::RandomLayout(random, model, &request);
    auto plan = whalepod::MakePlan(request);
    if (!plan.ok()) continue;
    if (written % 2 == 0) CHECK_OK(whalepod::BindPlan(checkpoint, &*plan));
    const std::string bytes = plan->SerializeAsString();
    if (bytes.size() > 64 * 1024) continue;  // small ones are quick
    std::ofstream(folder / ("seed" + std::to_string(written++)), std::ios::binary) << bytes;
  }
  CHECK_GT(written, 0);
  return 0;
}
