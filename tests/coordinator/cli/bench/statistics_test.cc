#include "coordinator/cli/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "coordinator/cli/bench/html_report.h"
#include "coordinator/cli/bench/load_report.h"
#include "coordinator/cli/bench/plot.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::Pair;

LoadRecord Record(double start, std::vector<double> chunks, int64_t output) {
  LoadRecord record;
  record.due = record.start = start;
  record.end = chunks.back() + 0.01;
  record.chunks = std::move(chunks);
  record.input_tokens = 100;
  record.output_tokens = output;
  record.counted_by_server = true;
  return record;
}

LoadRecord Failed(double start, double end, const std::string& name) {
  LoadRecord record;
  record.start = start;
  record.end = end;
  record.failure = name;
  record.message = "the <server> said \"no\"";
  return record;
}

// The definition, done plainly: each value counts by how near its rank is, within 1.
double PlainPercentile(std::vector<double> values, double percent) {
  double best = 0;
  const double rank = percent / 100 * static_cast<double>(values.size() - 1);
  for (size_t i = 0; i < values.size(); ++i) {
    std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(i), values.end());
    best += values[i] * std::max(0.0, 1 - std::abs(rank - static_cast<double>(i)));
  }
  return best;
}

TEST(StatisticsTest, PercentilesAreNumpys) {
  const std::vector<double> values = {1, 2, 4, 8};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(Percentile(values, 50), 3);
  EXPECT_DOUBLE_EQ(Percentile(values, 90), 6.8);  // numpy.percentile([1, 2, 4, 8], 90)
  EXPECT_DOUBLE_EQ(Percentile(values, 100), 8);
  EXPECT_DOUBLE_EQ(Percentile({5}, 99), 5);
}

TEST(StatisticsTest, SummariesAreThePlainOnes) {
  std::mt19937_64 random(8);
  for (size_t count = 1; count < 40; ++count) {
    std::vector<double> values(count);
    for (double& value : values) value = static_cast<double>(random() % 1000);
    double sum = 0, squares = 0;
    for (const double value : values) sum += value;
    for (const double value : values) {
      squares += std::pow(value - sum / static_cast<double>(count), 2);
    }
    const Summary summary = Summarize(values, {25, 99});
    EXPECT_NEAR(summary.mean, sum / static_cast<double>(count), 1e-9);
    EXPECT_NEAR(summary.std, std::sqrt(squares / static_cast<double>(count)), 1e-9);
    EXPECT_NEAR(summary.median, PlainPercentile(values, 50), 1e-9);
    ASSERT_EQ(summary.percentiles.size(), 2u);
    EXPECT_NEAR(summary.percentiles[0].second, PlainPercentile(values, 25), 1e-9);
    EXPECT_NEAR(summary.percentiles[1].second, PlainPercentile(values, 99), 1e-9);
  }
  EXPECT_EQ(Summarize({}, {50}).mean, 0);
  EXPECT_THAT(Summarize({}, {50}).percentiles, ElementsAre(Pair(50, 0)));
}

std::vector<LoadRecord> SomeRecords() {
  return {Record(0, {1.0, 1.5, 2.0}, 3), Record(0.5, {1.5}, 1),      Record(2.0, {2.5, 4.5}, 5),
          Failed(0, 3.5, "UNAVAILABLE"), Failed(1, 3.5, "HTTP 429"), Failed(2, 3.5, "HTTP 429")};
}

TEST(StatisticsTest, FiguresOfALoad) {
  const LoadFigures f = MakeFigures(SomeRecords(), 5, {50}, Goals{});
  EXPECT_EQ(f.completed, 3);
  EXPECT_EQ(f.failed, 3);
  EXPECT_THAT(f.failures, ElementsAre(Pair("HTTP 429", 2), Pair("UNAVAILABLE", 1)));
  EXPECT_EQ(f.total_input, 300);
  EXPECT_EQ(f.total_output, 9);
  EXPECT_THAT(f.ttfts, ElementsAre(0.5, 1.0, 1.0));
  EXPECT_THAT(f.tpots, ElementsAre(0.5, 0.5));  // (2 - 1) / 2 and (4.5 - 2.5) / 4; one token: none
  EXPECT_THAT(f.itls, ElementsAre(0.5, 0.5, 2.0));
  EXPECT_THAT(f.e2els, ElementsAre(1.0, 2.0, 2.5));
  EXPECT_EQ(f.peak_requests, 2);  // the third starts as the first ends
  EXPECT_DOUBLE_EQ(f.PerSecond(9), 1.8);
  // The second from 1 to 2 has 1.0, 1.5 and 1.5; a chunk of the third request is 2.5 tokens, and
  // two come with the first's last in the next second.
  EXPECT_DOUBLE_EQ(f.most_output_in_a_second, 3.5);
  EXPECT_EQ(f.most_requests_in_a_second, 2);
  EXPECT_TRUE(f.counted_by_server);
}

TEST(StatisticsTest, SecondsCountFromTheFirstSending) {
  // One after the other; from 0.7 on, the first second has three of them, the next the last two.
  const LoadFigures f =
      MakeFigures({Failed(0.1, 9, "UNAVAILABLE"), Record(0.7, {0.9}, 1), Record(1.0, {1.1, 1.2}, 2),
                   Record(1.5, {1.6, 1.9}, 4), Record(2.0, {2.1}, 1)},
                  9, {}, Goals{});
  EXPECT_EQ(f.peak_requests, 1);
  EXPECT_EQ(f.most_requests_in_a_second, 3);
  EXPECT_DOUBLE_EQ(f.most_output_in_a_second, 5);  // until 1.7: 1, 2, and one of two chunks of 2
  EXPECT_EQ(MakeFigures({Failed(0, 1, "UNAVAILABLE")}, 1, {}, Goals{}).most_requests_in_a_second,
            0);
}

TEST(StatisticsTest, GoodRequestsKeepEveryGoal) {
  const auto good = [](const std::vector<std::string>& items) {
    return MakeFigures(SomeRecords(), 5, {}, ParseGoals(items).value()).good;
  };
  EXPECT_EQ(good({}), 0);  // no goal, no goodput
  EXPECT_EQ(good({"ttft:1000"}), 3);
  EXPECT_EQ(good({"ttft:999"}), 1);
  EXPECT_EQ(good({"tpot:499"}), 1);  // one token: 0
  EXPECT_EQ(good({"tpot:500", "e2el:2000"}), 2);
  EXPECT_EQ(good({"e2el:0"}), 0);
}

TEST(StatisticsTest, GoalsAreRefusedByName) {
  for (const char* item : {"itl:5", "ttft", "ttft:", "ttft:fast", "ttft:-1", "ttft:nan", ""}) {
    EXPECT_THAT(ParseGoals({item}).status().message(), HasSubstr(item)) << item;
  }
  EXPECT_FALSE(ParseGoals({"ttft:1", "ttft:2"}).ok());
}

TEST(StatisticsTest, TimelinesShowWhatRan) {
  const auto running = RunningOverTime(SomeRecords());
  EXPECT_EQ(running.back().second, 0);
  double most = 0, last = 0;
  for (const auto& [time, value] : running) {
    most = std::max(most, value);
    EXPECT_GE(time, last);
    last = time;
  }
  EXPECT_EQ(most, 5);  // failed ones are under way until they fail
  double tokens = 0;
  for (const auto& [time, rate] : OutputOverTime(SomeRecords(), 5, 0.25)) tokens += rate * 0.25;
  EXPECT_NEAR(tokens, 9, 1e-9);
}

TEST(StatisticsTest, HistogramsAndCurvesCountEverything) {
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back(i);
  double sum = 0;
  for (const auto& [x, count] : Histogram(values, 20, 99)) sum += count;
  EXPECT_EQ(sum, 1000);
  EXPECT_EQ(Histogram(values, 20, 99)[19].second, 60);  // 940.5 up to the end
  EXPECT_EQ(Cdf(values).back().second, 100);
  EXPECT_TRUE(Histogram({}, 20, 99).empty());
  EXPECT_EQ(Histogram({0, 0}, 4, 99)[0].second, 2);
}

LoadReport SomeReport() {
  LoadReport report;
  report.settings["endpoint"] = "a<b>&\"c\"";
  report.goals.ttft = 1;
  report.run.records = SomeRecords();
  report.run.duration = 5;
  report.run.cpu_seconds = 0.018;
  report.figures = MakeFigures(report.run.records, 5, {90, 99.9}, report.goals);
  return report;
}

TEST(ReportTest, JsonHasVllmsNames) {
  const nlohmann::ordered_json json = ReportJson(SomeReport());
  EXPECT_EQ(json["completed"], 3);
  EXPECT_EQ(json["failures"]["HTTP 429"], 2);
  EXPECT_EQ(json["request_throughput"], 0.6);
  EXPECT_EQ(json["request_goodput"], 0.6);
  EXPECT_EQ(json["output_throughput"], 1.8);
  EXPECT_EQ(json["total_token_throughput"], 309 / 5.0);
  EXPECT_EQ(json["max_concurrent_requests"], 2);
  EXPECT_EQ(json["peak_concurrent_requests"], 2);
  EXPECT_EQ(json["median_ttft_ms"], 1000);
  EXPECT_EQ(json["mean_itl_ms"], 1000);
  EXPECT_DOUBLE_EQ(json["p90_e2el_ms"], 2400);
  EXPECT_TRUE(json.contains("p99.9_tpot_ms"));
  EXPECT_DOUBLE_EQ(json["client_cpu_us_per_output_token"], 2000);
  LoadReport no_goal = SomeReport();
  no_goal.goals = {};
  EXPECT_FALSE(ReportJson(no_goal).contains("request_goodput"));
}

TEST(ReportTest, TableNamesFailures) {
  const std::string table = ReportTable(SomeReport());
  EXPECT_THAT(table, HasSubstr("HTTP 429:"));
  EXPECT_THAT(table, HasSubstr("P99.9 E2EL (ms):"));
  EXPECT_THAT(table, HasSubstr("CPU per output token (us):                    2000.00"));
}

TEST(ReportTest, TellsTheLatenciesAskedFor) {
  LoadReport report = SomeReport();
  report.metrics = ParseMetrics("itl,ttft").value();
  const nlohmann::ordered_json json = ReportJson(report);
  for (const char* name : {"mean_ttft_ms", "std_itl_ms", "p90_ttft_ms"}) {
    EXPECT_TRUE(json.contains(name)) << name;
  }
  for (const char* name : {"mean_tpot_ms", "median_e2el_ms", "p90_e2el_ms"}) {
    EXPECT_FALSE(json.contains(name)) << name;
  }
  EXPECT_THAT(ReportTable(report), AllOf(HasSubstr("Mean ITL"), Not(HasSubstr("Mean E2EL"))));
  const std::string html = ReportHtml(report);
  EXPECT_THAT(html, AllOf(HasSubstr("<td>TTFT</td>"), Not(HasSubstr("<td>TPOT</td>"))));
  EXPECT_THAT(ParseMetrics("ttft,e2e").status().message(), HasSubstr("found \"e2e\""));
  EXPECT_FALSE(ParseMetrics("").ok());
}

TEST(ReportTest, NothingCompletedIsAReportToo) {
  LoadReport report;
  report.run.records = {Failed(0, 1, "UNAVAILABLE")};
  report.figures = MakeFigures(report.run.records, 1, {99}, Goals{});
  EXPECT_EQ(ReportJson(report)["failed"], 1);
  EXPECT_EQ(ReportJson(report)["p99_ttft_ms"], 0);
  EXPECT_THAT(ReportHtml(report), HasSubstr("</html>"));
}

TEST(ReportTest, HtmlIsWholeAndEscaped) {
  const std::string html = ReportHtml(SomeReport());
  EXPECT_THAT(html, HasSubstr("a&lt;b&gt;&amp;&quot;c&quot;"));
  EXPECT_THAT(html, Not(HasSubstr("<server>")));
  for (const char* reference :
       {"src=", "href=", "url(", "http://", "https://", "@import", "<script"}) {
    EXPECT_THAT(html, Not(HasSubstr(reference)));
  }
  size_t plots = 0;
  for (size_t at = html.find("<svg"); at != std::string::npos; at = html.find("<svg", at + 1)) {
    ++plots;
  }
  EXPECT_EQ(plots, 5u);
  EXPECT_THAT(html, Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace whalepod
