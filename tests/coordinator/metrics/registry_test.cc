#include "coordinator/metrics/registry.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Registry, WritesEachKind) {
  Registry registry({"model_name", "r1"});
  registry.AddCounter("a_total", "Things.").Add(3);
  registry.AddGauge("b", "A level.").Set(0.25);
  Histogram& histogram = registry.AddHistogram("c_seconds", "Times.", {0.1, 1});
  for (const double value : {0.05, 0.1, 0.5, 7.0}) histogram.Observe(value);
  Family<Counter>& family = registry.AddCounters("d_total", {"x", "y"}, "Pairs.");
  family.With({"1", "2"}).Add();
  family.With({"1", "2"}).Add();
  registry.AddGauges("e", {"z"}, "Nothing yet.");
  EXPECT_EQ(registry.Text(),
            "# HELP a_total Things.\n"
            "# TYPE a_total counter\n"
            "a_total{model_name=\"r1\"} 3\n"
            "# HELP b A level.\n"
            "# TYPE b gauge\n"
            "b{model_name=\"r1\"} 0.25\n"
            "# HELP c_seconds Times.\n"
            "# TYPE c_seconds histogram\n"
            "c_seconds_count{model_name=\"r1\"} 4\n"
            "c_seconds_sum{model_name=\"r1\"} 7.65\n"
            "c_seconds_bucket{model_name=\"r1\",le=\"0.1\"} 2\n"
            "c_seconds_bucket{model_name=\"r1\",le=\"1\"} 3\n"
            "c_seconds_bucket{model_name=\"r1\",le=\"+Inf\"} 4\n"
            "# HELP d_total Pairs.\n"
            "# TYPE d_total counter\n"
            "d_total{model_name=\"r1\",x=\"1\",y=\"2\"} 2\n");
}

TEST(Registry, LabelValuesAreEscaped) {
  Registry registry({"model_name", "a\"b\\c\nd"});
  registry.AddCounter("a_total", "Things.");
  EXPECT_THAT(registry.Text(), HasSubstr("a_total{model_name=\"a\\\"b\\\\c\\nd\"} 0\n"));
}

TEST(Registry, NamesAreUniqueAndValid) {
  Registry registry({"model_name", "r1"});
  registry.AddCounter("a_total", "Things.");
  EXPECT_DEATH(registry.AddGauge("a_total", "Other."), "CHECK failed");
  EXPECT_DEATH(registry.AddGauge("a total", "Other."), "CHECK failed");
  EXPECT_DEATH(registry.AddGauge("b", "Two\nlines."), "CHECK failed");
}

TEST(Histogram, ABoundBelongsToTheBucketItEnds) {
  Histogram histogram({1, 2, 4});
  for (const double value : {0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 4.5}) histogram.Observe(value);
  EXPECT_THAT(histogram.Read().buckets, ElementsAre(2, 2, 2, 1));
  EXPECT_EQ(histogram.Read().sum, 16);
  EXPECT_EQ(histogram.count(), 7u);
  EXPECT_DEATH(Histogram({1, 1}), "CHECK failed");
}

// Under ThreadSanitizer too: nothing is lost, and no reader sees counts go back.
TEST(Registry, ManyWritersAndAReader) {
  Registry registry({"model_name", "r1"});
  Counter& counter = registry.AddCounter("a_total", "Things.");
  Histogram& histogram = registry.AddHistogram("b", "Sizes.", {1, 10});
  Family<Counter>& family = registry.AddCounters("c_total", {"x"}, "By x.");
  constexpr int kThreads = 4, kTimes = 5000;
  std::atomic<bool> done{false};
  std::thread reader([&] {
    uint64_t last = 0;
    while (!done) {
      const std::vector<uint64_t> buckets = histogram.Read().buckets;
      EXPECT_GE(buckets[1], last);
      last = buckets[1];
      EXPECT_THAT(registry.Text(), HasSubstr("b_count"));
    }
  });
  std::vector<std::thread> writers;
  for (int t = 0; t < kThreads; ++t) {
    writers.emplace_back([&, t] {
      for (int i = 0; i < kTimes; ++i) {
        counter.Add();
        histogram.Observe(5);
        family.With({std::to_string((t + i) % 3)}).Add();
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  done = true;
  reader.join();
  EXPECT_EQ(counter.value(), uint64_t{kThreads} * kTimes);
  EXPECT_EQ(histogram.count(), uint64_t{kThreads} * kTimes);
  EXPECT_EQ(histogram.Read().sum, 5.0 * kThreads * kTimes);
  uint64_t sum = 0;
  family.ForEach([&](const auto&, Counter& one) { sum += one.value(); });
  EXPECT_EQ(sum, uint64_t{kThreads} * kTimes);
}

}  // namespace
}  // namespace whalepod
