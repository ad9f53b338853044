// What measuring costs the engine's thread: a token, a step, and a scrape beside them.
#include <benchmark/benchmark.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "coordinator/metrics/request_record.h"
#include "coordinator/usage/usage_store.h"

namespace whalepod {
namespace {

std::unique_ptr<UsageStore> Usage() {
  auto usage = UsageStore::Open({.path = "", .now_ms = [] { return int64_t{0}; }});
  CHECK(usage.ok());
  return *std::move(usage);
}

// The clock is read once a token, as Generation does.
void Tokens(benchmark::State& state) {
  ServingMetrics metrics("m");
  const std::unique_ptr<UsageStore> usage = Usage();
  RequestRecord record(&metrics, usage.get(), Transport::kGrpc, Clock::Real()->Now());
  record.OnSubmitted(1, 10, 1000);
  std::atomic<bool> done{false};
  std::thread scraper([&] {
    while (state.range(0) != 0 && !done) benchmark::DoNotOptimize(metrics.Text());
  });
  for (auto _ : state) record.OnToken(0, Clock::Real()->Now());
  done = true;
  scraper.join();
}
BENCHMARK(Tokens)->ArgName("scraped")->Arg(0)->Arg(1);

void Requests(benchmark::State& state) {
  spdlog::set_level(spdlog::level::info);
  ServingMetrics metrics("m");
  const std::unique_ptr<UsageStore> usage = Usage();
  const TimePoint now = Clock::Real()->Now();
  for (auto _ : state) {
    RequestRecord record(&metrics, usage.get(), Transport::kGrpc, now);
    record.OnSubmitted(1, 10, 1000);
    record.OnScheduled(0, 0, now);
    record.OnToken(0, now);
    record.OnChoiceEnd(0, v1::FINISH_REASON_STOP, now);
    record.OnEnd(absl::OkStatus(), "", now);
  }
}
BENCHMARK(Requests);

StepOutcome Outcome(int64_t ranks) {
  StepOutcome outcome;
  outcome.tokens = 100;
  outcome.rank_micros.assign(ranks, 20000);
  return outcome;
}

void Steps(benchmark::State& state) {
  ServingMetrics metrics("m");
  const StepOutcome outcome = Outcome(state.range(0));
  TimePoint now{};
  for (auto _ : state) metrics.RecordStep(outcome, now += std::chrono::milliseconds(25));
}
BENCHMARK(Steps)->ArgName("ranks")->Arg(1)->Arg(256);

void Scrape(benchmark::State& state) {
  ServingMetrics metrics("m");
  metrics.RecordStep(Outcome(state.range(0)), TimePoint());
  for (auto _ : state) benchmark::DoNotOptimize(metrics.Text());
  state.counters["bytes"] = static_cast<double>(metrics.Text().size());
}
BENCHMARK(Scrape)->ArgName("ranks")->Arg(4)->Arg(256)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace whalepod

BENCHMARK_MAIN();
