#include "coordinator/cli/bench/arrivals.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "coordinator/cli/bench/workload.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

// Mean and variance of gaps, and the part of them below half the mean.
struct Gaps {
  double mean = 0, variance = 0, short_part = 0;
};

Gaps GapsOf(const std::vector<double>& times) {
  const auto count = static_cast<double>(times.size());
  Gaps gaps;
  gaps.mean = times.back() / count;
  double last = 0;
  for (const double time : times) {
    const double gap = time - last;
    gaps.variance += (gap - gaps.mean) * (gap - gaps.mean) / count;
    gaps.short_part += gap < gaps.mean / 2 ? 1 / count : 0;
    last = time;
  }
  return gaps;
}

TEST(ArrivalsTest, MeanRateIsWhatWasAskedFor) {
  for (const double burstiness : {0.05, 0.5, 1.0, 3.0, 100.0}) {
    const std::vector<double> times =
        ArrivalTimes({.count = 5000, .rate = 40, .burstiness = burstiness, .seed = 3});
    ASSERT_EQ(times.size(), 5000u);
    EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
    EXPECT_GE(times.front(), 0);
    EXPECT_NEAR(times.back(), 5000 / 40.0, 1e-9);
  }
}

// A gamma distribution of shape k has a variance of mean² / k.
TEST(ArrivalsTest, BurstinessIsTheGammaDistributionsShape) {
  for (const double burstiness : {0.25, 0.5, 1.0, 2.0, 10.0}) {
    const Gaps gaps =
        GapsOf(ArrivalTimes({.count = 200'000, .rate = 8, .burstiness = burstiness, .seed = 11}));
    EXPECT_NEAR(gaps.variance / (gaps.mean * gaps.mean), 1 / burstiness, 0.04 / burstiness);
  }
}

TEST(ArrivalsTest, PoissonGapsAreExponential) {
  const Gaps gaps = GapsOf(ArrivalTimes({.count = 200'000, .rate = 1, .seed = 5}));
  EXPECT_NEAR(gaps.short_part, 1 - std::exp(-0.5), 0.005);
}

TEST(ArrivalsTest, TheGammaDistributionHasItsMean) {
  for (const double shape : {0.1, 0.9, 1.0, 4.5}) {
    std::mt19937_64 random(2);
    double sum = 0;
    for (int i = 0; i < 200'000; ++i) sum += Gamma(random, shape);
    EXPECT_NEAR(sum / 200'000, shape, 0.02 * shape + 0.005);
  }
}

TEST(ArrivalsTest, InfinityIsAllAtOnce) {
  const std::vector<double> times =
      ArrivalTimes({.count = 9, .rate = std::numeric_limits<double>::infinity()});
  EXPECT_EQ(times, std::vector<double>(9, 0.0));
  EXPECT_TRUE(ArrivalTimes({.count = 0, .rate = 3}).empty());
}

TEST(ArrivalsTest, TheSeedDecides) {
  const ArrivalOptions options{.count = 50, .rate = 5, .burstiness = 0.7, .seed = 4};
  ArrivalOptions other = options;
  other.seed = 5;
  EXPECT_EQ(ArrivalTimes(options), ArrivalTimes(options));
  EXPECT_NE(ArrivalTimes(options), ArrivalTimes(other));
  // The same with every standard library: a value written down.
  std::mt19937_64 random(1);
  EXPECT_EQ(UniformInt(random, 0, 999'999), 2469588189546311528u % 1'000'000);
}

TEST(WorkloadTest, LengthsPrefixAndIdsAreWithinWhatWasAsked) {
  const RandomWorkload workload{.count = 300,
                                .input_len = 40,
                                .output_len = 10,
                                .range_ratio = 0.5,
                                .prefix_len = 7,
                                .vocab_size = 100,
                                .seed = 6};
  const auto requests = RandomRequests(workload);
  ASSERT_EQ(requests.size(), 300u);
  int shortest = 1000, longest = 0;
  uint32_t fewest = 1000, most = 0;
  for (const v1::GenerateRequest& request : requests) {
    const auto& ids = request.token_ids().ids();
    ASSERT_TRUE(std::equal(ids.begin(), ids.begin() + 7, requests[0].token_ids().ids().begin()));
    ASSERT_LT(*std::max_element(ids.begin(), ids.end()), 100u);
    shortest = std::min(shortest, ids.size());
    longest = std::max(longest, ids.size());
    fewest = std::min(fewest, request.options().max_tokens());
    most = std::max(most, request.options().max_tokens());
  }
  EXPECT_EQ(shortest, 7 + 20);
  EXPECT_EQ(longest, 7 + 60);
  EXPECT_EQ(fewest, 5u);
  EXPECT_EQ(most, 15u);
  EXPECT_NE(requests[0].token_ids().ids(7), requests[1].token_ids().ids(7));
}

TEST(WorkloadTest, FewerRequestsAreTheFirstOfMany) {
  RandomWorkload workload{.count = 20, .input_len = 5, .output_len = 5, .vocab_size = 512};
  const auto many = RandomRequests(workload);
  workload.count = 3;
  const auto few = RandomRequests(workload);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(few[i].SerializeAsString(), many[i].SerializeAsString());
  }
  // Without a range, exactly so many; a length of 1 stays 1.
  EXPECT_EQ(few[2].token_ids().ids_size(), 5);
  workload.input_len = 1;
  workload.range_ratio = 0.9;
  for (const auto& request : RandomRequests(workload)) EXPECT_GE(request.token_ids().ids_size(), 1);
}

}  // namespace
}  // namespace whalepod
