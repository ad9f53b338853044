#include "coordinator/metrics/serving_metrics.h"

#include <chrono>
#include <map>

#include "absl/strings/str_cat.h"

namespace whalepod {

// vLLM's bounds, and finer ones below its first.
std::vector<double> ServingMetrics::LatencyBounds() {
  return {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1,   1.5,  2,   2.5,
          5,     10,     15,    20,   30,    40,   50,  60,  120, 240, 480, 960, 1920, 7680};
}

std::vector<double> ServingMetrics::TokenBounds() {
  return {1,    2,    5,    10,    20,    50,    100,    200,   500,
          1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
}

std::vector<double> ServingMetrics::StepBounds() {
  return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};
}

ServingMetrics::ServingMetrics(const std::string& model_name)
    : registry_({"model_name", model_name}) {
  // All there from the beginning, as 0, so that a rate sees the first.
  constexpr std::array kEndings = {"stop", "length", "abort", "error"};
  for (size_t i = 0; i < kEndings.size(); ++i) endings_[i] = &success_.With({kEndings[i]});
  for (size_t t = 0; t < kTransportNames.size(); ++t) {
    for (size_t o = 0; o < kOutcomeNames.size(); ++o) {
      outcomes_[t][o] = &requests_.With({kTransportNames[t], kOutcomeNames[o]});
    }
  }
  waiting_by_priority_.With({"0"});
  for (const char* state : {"starting", "ready", "stopping", "failed"}) state_.With({state});
}

void ServingMetrics::SetScheduler(const SchedulerStats& stats) {
  running_.Set(stats.running);
  waiting_.Set(stats.waiting);
  kv_blocks_.Set(stats.blocks_total);
  kv_blocks_used_.Set(stats.blocks_owned);
  kv_blocks_cached_.Set(stats.blocks_cached);
  waiting_tokens_.Set(static_cast<double>(stats.waiting_tokens));
  kv_usage_.Set(
      stats.blocks_total == 0 ? 0 : static_cast<double>(stats.blocks_owned) / stats.blocks_total);
  prefill_tokens_.SetTotal(stats.prefill_tokens);
  decode_tokens_.SetTotal(stats.decode_tokens);
  overrun_tokens_.SetTotal(stats.overrun_tokens);
  preemptions_.SetTotal(stats.preemptions);
  audits_.SetTotal(stats.audits);
  audit_failures_.SetTotal(stats.audit_failures);
  prefix_queries_.SetTotal(stats.prefix_queries);
  prefix_hits_.SetTotal(stats.prefix_hits);
  waiting_by_priority_.ForEach([](const auto&, Gauge& gauge) { gauge.Set(0); });
  for (const auto& [priority, waiting] : stats.waiting_by_priority) {
    waiting_by_priority_.With({absl::StrCat(priority)}).Set(waiting);
  }
}

void ServingMetrics::SetDeployment(const v1::GetStatusResponse& status) {
  state_.ForEach([&](const std::vector<std::string>& values, Gauge& gauge) {
    gauge.Set(values[0] == status.state() ? 1 : 0);
  });
  epoch_.Set(static_cast<double>(status.epoch()));
  ranks_.Set(status.ranks_size());
  int ready = 0;
  for (const v1::RankStatus& rank : status.ranks()) {
    if (rank.phase() == "READY") ++ready;
    if (rank.worker().empty()) continue;  // nobody yet
    heartbeat_age_.With({absl::StrCat(rank.rank())}).Set(rank.heartbeat_age_ms() / 1e3);
  }
  ranks_ready_.Set(ready);
}

void ServingMetrics::NoteTotals(TimePoint now) {
  rates_.Note(now, {.prompt_tokens = prompt_tokens_.value(),
                    .generation_tokens = generation_tokens_.value(),
                    .requests = params_n_.count()});
}

void ServingMetrics::RecordStep(const StepOutcome& outcome, TimePoint now) {
  NoteTotals(now);
  const v1::ExpertLoad& load = outcome.expert_load;
  for (int i = 0; i < load.layers_size(); ++i) {
    if (load.tokens(i) == 0) continue;  // nothing ran: no news
    const double mean = static_cast<double>(load.tokens(i)) / load.experts();
    expert_load_.With({absl::StrCat(load.layers(i))}).Set(static_cast<double>(load.most(i)) / mean);
  }
  if (outcome.tokens == 0) {
    empty_steps_.Add();
    return;
  }
  work_steps_.Add();
  step_tokens_.Observe(static_cast<double>(outcome.tokens));
  step_duration_.Observe(std::chrono::duration<double>(outcome.duration).count());
  while (by_rank_.size() < outcome.rank_micros.size()) {
    by_rank_.push_back(&rank_step_.With({absl::StrCat(by_rank_.size())}));
  }
  for (size_t rank = 0; rank < outcome.rank_micros.size(); ++rank) {
    by_rank_[rank]->Observe(outcome.rank_micros[rank] / 1e6);
  }
}

void ServingMetrics::RecordHttpResponse(const std::string& route, int code) {
  responses_.With({route, absl::StrCat(code)}).Add();
}

}  // namespace whalepod
