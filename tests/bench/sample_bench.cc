// What choosing one token costs: a row as wide as R1's vocabulary, one thread.
//
// usage: sample_bench [portable|avx2|avx512] [Google Benchmark's flags]
// Rows: normal (logits as they are), flat (every id about as likely, the hardest to cut), equal
// (all the same). The limit is 1 ms a row, whatever the options.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"

namespace whalepod {
namespace {

constexpr int64_t kVocab = 129280;

struct Options {
  const char* name;
  int64_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  bool penalties = false;
};
constexpr Options kOptions[] = {
    {"plain"},
    {"top_k_50", 50},
    {"top_k_50000", 50000},
    {"top_p_0.95", 0, 0.95f},
    {"min_p_0.05", 0, 1, 0.05f},
    {"penalties_top_p", 0, 0.95f, 0, true},
    {"all", 50000, 0.999f, 0.0001f, true},
};

std::vector<float> RowOf(const std::string& kind) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, kind == "normal" ? 3.0f : 0.01f);
  std::vector<float> row(kVocab, 1.0f);
  if (kind == "equal") return row;
  for (float& logit : row) logit = normal(random);
  return row;
}

void SampleRow(benchmark::State& state, Backend& backend, const Options& options,
               const std::vector<float>& row) {
  std::vector<TokenCount> seen;
  for (int32_t id = 0; id < 2000; ++id) seen.push_back({id * 61, static_cast<uint32_t>(id % 3)});
  std::vector<float> scratch(static_cast<size_t>(SampleFilteredScratch(kVocab, 1)));
  SampleFilter filter{.logits = row.data(),
                      .temperature = 0.6f,
                      .top_k = options.top_k,
                      .top_p = options.top_p,
                      .min_p = options.min_p,
                      .seed = 5};
  if (options.penalties) {
    filter.seen = seen;
    filter.repetition_penalty = 1.1f;
    filter.frequency_penalty = 0.2f;
    filter.presence_penalty = 0.1f;
  }
  SampleCandidate best;
  for (auto _ : state) {
    ++filter.position;
    const absl::Status status = backend.SampleFiltered(
        {.rows = {&filter, 1}, .vocab = kVocab, .best = &best, .scratch = scratch.data()});
    if (!status.ok()) state.SkipWithError(status.ToString().c_str());
    benchmark::DoNotOptimize(best);
  }
}

int Run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const std::string path = argc > 1 ? argv[1] : "best";
  const IsaPath isa = path == "portable" ? IsaPath::kPortable
                      : path == "avx2"   ? IsaPath::kAvx2
                      : path == "avx512" ? IsaPath::kAvx512
                                         : IsaPath::kBest;
  const auto backend = CreateCpuBackend({.threads = 1, .isa = isa});
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", backend.status().ToString().c_str());
    return 1;
  }
  static std::vector<std::pair<std::string, std::vector<float>>> rows;
  for (const char* kind : {"normal", "flat", "equal"}) rows.emplace_back(kind, RowOf(kind));
  for (const auto& [kind, row] : rows) {
    for (const Options& options : kOptions) {
      benchmark::RegisterBenchmark(
          (kind + "/" + options.name).c_str(),
          [&](benchmark::State& state) { SampleRow(state, **backend, options, row); })
          ->Unit(benchmark::kMillisecond);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return whalepod::Run(argc, argv); }
