// A thousand ranks are planned, validated and hashed in little time and memory.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>

#include "base/units.h"
#include "coordinator/plan/catalogue.h"
#include "coordinator/plan/planner.h"
#include "coordinator/plan/presets.h"
#include "gtest/gtest.h"
#include "proto/plan/validate.h"

namespace whalepod {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSlack = 20;
#else
// The aim is 2 s on an idle core; the test allows for busy machines.
constexpr double kSlack = 4;
#endif

int64_t PeakBytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * kKiB;
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(PlanScaleTest, AThousandRanks) {
  PlanRequest request;
  request.model = Preset("deepseek-r1").value();
  request.dp = 128;
  request.tp = 8;
  request.ep = 256;
  request.gpu = true;
  request.hosts = ParseGpus("1024xH200").value();
  const double start = CpuSeconds();
  const auto plan = MakePlan(request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const double planned = CpuSeconds();
  const absl::Status valid = ValidatePlan(*plan);
  ASSERT_TRUE(valid.ok()) << valid;
  const double validated = CpuSeconds();
  int64_t slices = 0;
  for (const v1::RankPart& part : plan->ranks()) slices += part.slices().name_size();
  std::printf("%d ranks, %lld slices: planned and hashed in %.2f s, validated in %.2f s, peak %s\n",
              plan->ranks_size(), static_cast<long long>(slices), planned - start,
              validated - planned, FormatBytes(PeakBytes()).c_str());
  EXPECT_EQ(plan->ranks_size(), 1024);
  EXPECT_LT(validated - start, 2 * kSlack);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(PeakBytes(), kGiB);
#endif
}

}  // namespace
}  // namespace whalepod
