#include "coordinator/metrics/serving_metrics.h"

#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/coordinator/metrics/series.h"

namespace whalepod {
namespace {

using std::chrono::milliseconds;

// The table of docs/metrics.md, as it must be.
std::string Table() {
  std::string table = "| name | kind | labels | what |\n| --- | --- | --- | --- |\n";
  for (const MetricInfo& info : ServingMetrics("m").Declared()) {
    constexpr const char* kKinds[] = {"counter", "gauge", "histogram"};
    absl::StrAppend(&table, "| `", info.name, "` | ", kKinds[static_cast<int>(info.kind)], " | ",
                    absl::StrJoin(info.labels, ", "), " | ", info.help, " |\n");
  }
  return table;
}

TEST(ServingMetrics, TheDocumentedTableIsTheRegistry) {
  std::ifstream file(WHALEPOD_DOCS_DIR "/metrics.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(absl::StrContains(text.str(), Table())) << "docs/metrics.md must have this table:\n"
                                                      << Table();
}

TEST(ServingMetrics, NamesFollowTheConventions) {
  for (const MetricInfo& info : ServingMetrics("m").Declared()) {
    EXPECT_TRUE(absl::StartsWith(info.name, "vllm:") || absl::StartsWith(info.name, "whalepod:"))
        << info.name;
    // vLLM has one histogram of this name.
    if (info.name == "vllm:iteration_tokens_total") continue;
    EXPECT_EQ(absl::EndsWith(info.name, "_total"), info.kind == MetricKind::kCounter) << info.name;
  }
}

TEST(ServingMetrics, SchedulerAndDeployment) {
  ServingMetrics metrics("m");
  SchedulerStats stats;
  stats.running = 3;
  stats.waiting = 2;
  stats.blocks_total = 8;
  stats.blocks_owned = 6;
  stats.prefill_tokens = 100;
  stats.preemptions = 4;
  stats.audits = 90;
  stats.audit_failures = 1;
  stats.prefix_queries = 9;
  stats.prefix_hits = 5;
  stats.waiting_by_priority = {{-3, 2}};
  EXPECT_EQ(Value(metrics.Text(), "whalepod:requests_waiting{model_name=\"m\",priority=\"0\"}"), 0);
  metrics.SetScheduler(stats);
  EXPECT_EQ(Value(metrics.Text(), "whalepod:requests_waiting{model_name=\"m\",priority=\"-3\"}"),
            2);
  stats.waiting_by_priority = {{0, 1}};
  stats.prefill_tokens = 150;
  metrics.SetScheduler(stats);
  v1::GetStatusResponse status;
  status.set_state("ready");
  status.set_epoch(4);
  for (const char* phase : {"READY", "READY", "LOST", "MISSING"}) {
    v1::RankStatus* rank = status.add_ranks();
    rank->set_rank(status.ranks_size() - 1);
    rank->set_phase(phase);
    if (status.ranks_size() < 4) rank->set_worker("w");
    rank->set_heartbeat_age_ms(200 * status.ranks_size());
  }
  metrics.SetDeployment(status);
  const std::string text = metrics.Text();
  EXPECT_EQ(Value(text, "vllm:num_requests_running{model_name=\"m\"}"), 3);
  EXPECT_EQ(Value(text, "vllm:num_requests_waiting{model_name=\"m\"}"), 2);
  EXPECT_EQ(Value(text, "vllm:kv_cache_usage_perc{model_name=\"m\"}"), 0.75);
  EXPECT_EQ(Value(text, "whalepod:prefill_tokens_total{model_name=\"m\"}"), 150);
  EXPECT_EQ(Value(text, "vllm:num_preemptions_total{model_name=\"m\"}"), 4);
  EXPECT_EQ(Value(text, "whalepod:kv_audits_total{model_name=\"m\"}"), 90);
  EXPECT_EQ(Value(text, "whalepod:kv_audit_failures_total{model_name=\"m\"}"), 1);
  EXPECT_EQ(Value(text, "vllm:prefix_cache_queries_total{model_name=\"m\"}"), 9);
  EXPECT_EQ(Value(text, "vllm:prefix_cache_hits_total{model_name=\"m\"}"), 5);
  EXPECT_EQ(Value(text, "whalepod:requests_waiting{model_name=\"m\",priority=\"-3\"}"), 0);
  EXPECT_EQ(Value(text, "whalepod:requests_waiting{model_name=\"m\",priority=\"0\"}"), 1);
  EXPECT_EQ(Value(text, "whalepod:deployment_state{model_name=\"m\",state=\"ready\"}"), 1);
  EXPECT_EQ(Value(text, "whalepod:deployment_state{model_name=\"m\",state=\"failed\"}"), 0);
  EXPECT_EQ(Value(text, "whalepod:epoch{model_name=\"m\"}"), 4);
  EXPECT_EQ(Value(text, "whalepod:ranks{model_name=\"m\"}"), 4);
  EXPECT_EQ(Value(text, "whalepod:ranks_ready{model_name=\"m\"}"), 2);
  EXPECT_EQ(Value(text, "whalepod:rank_heartbeat_age_seconds{model_name=\"m\",rank=\"2\"}"), 0.6);
  EXPECT_EQ(Value(text, "whalepod:rank_heartbeat_age_seconds{model_name=\"m\",rank=\"3\"}"),
            std::nullopt);
}

TEST(ServingMetrics, Steps) {
  ServingMetrics metrics("m");
  StepOutcome outcome;
  outcome.rank_micros = {100, 100};
  metrics.RecordStep(outcome, TimePoint());  // empty
  outcome.tokens = 40;
  outcome.duration = milliseconds(20);
  outcome.rank_micros = {15000, 4000};
  metrics.RecordStep(outcome, TimePoint(milliseconds(50)));
  const std::string text = metrics.Text();
  EXPECT_EQ(Value(text, "whalepod:steps_total{model_name=\"m\",kind=\"empty\"}"), 1);
  EXPECT_EQ(Value(text, "whalepod:steps_total{model_name=\"m\",kind=\"work\"}"), 1);
  EXPECT_EQ(Value(text, "whalepod:step_duration_seconds_sum{model_name=\"m\"}"), 0.02);
  EXPECT_EQ(Value(text, "vllm:iteration_tokens_total_sum{model_name=\"m\"}"), 40);
  EXPECT_EQ(Value(text, "whalepod:rank_step_seconds_sum{model_name=\"m\",rank=\"0\"}"), 0.015);
  EXPECT_EQ(Value(text, "whalepod:rank_step_seconds_count{model_name=\"m\",rank=\"1\"}"), 1);
}

TEST(ServingMetrics, ExpertLoad) {
  ServingMetrics metrics("m");
  StepOutcome outcome;
  outcome.expert_load.set_experts(8);
  for (const uint64_t tokens : {80, 0}) {
    outcome.expert_load.add_layers(3 + outcome.expert_load.layers_size());
    outcome.expert_load.add_tokens(tokens);
    outcome.expert_load.add_most(tokens / 4);
  }
  metrics.RecordStep(outcome, TimePoint());
  const std::string series = "whalepod:expert_load_max_over_mean{model_name=\"m\",layer=";
  EXPECT_EQ(Value(metrics.Text(), series + "\"3\"}"), 2);
  EXPECT_EQ(Value(metrics.Text(), series + "\"4\"}"), std::nullopt);
  // What ran nothing keeps what it had.
  outcome.expert_load.set_tokens(0, 0);
  outcome.expert_load.set_most(0, 0);
  metrics.RecordStep(outcome, TimePoint());
  EXPECT_EQ(Value(metrics.Text(), series + "\"3\"}"), 2);
}

TEST(ServingMetrics, HttpResponses) {
  ServingMetrics metrics("m");
  metrics.RecordHttpResponse("/health", 200);
  metrics.RecordHttpResponse("/health", 503);
  metrics.RecordHttpResponse("/health", 200);
  const std::string text = metrics.Text();
  const std::string series =
      "whalepod:http_responses_total{model_name=\"m\",route=\"/health\",code=";
  EXPECT_EQ(Value(text, series + "\"200\"}"), 2);
  EXPECT_EQ(Value(text, series + "\"503\"}"), 1);
}

}  // namespace
}  // namespace whalepod
