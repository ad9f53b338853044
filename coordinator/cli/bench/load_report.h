// A load's figures for people and for programs.
#pragma once

#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/cli/bench/load.h"
#include "coordinator/cli/bench/statistics.h"
#include "nlohmann/json.hpp"

namespace whalepod {

struct LoadReport {
  std::set<std::string> metrics = {"ttft", "tpot", "itl", "e2el"};  // the latencies it tells
  nlohmann::ordered_json settings;                                  // flat: what was asked for
  Goals goals;
  LoadFigures figures;
  LoadRun run;

  // Of this process, per output token of completed requests; 0 without one.
  double CpuPerToken() const;
  // The part of one core that this process took.
  double CoresUsed() const;
};

// Some of those four, comma-separated; INVALID_ARGUMENT names what is none.
absl::StatusOr<std::set<std::string>> ParseMetrics(const std::string& text);

// One object: the settings, and the figures under the names of vLLM's --save-result where it has
// them (mean_ttft_ms, p99_ttft_ms, request_throughput, ...).
nlohmann::ordered_json ReportJson(const LoadReport& report);
// The table of vLLM's `bench serve`, with the failures by name and this process's own CPU.
std::string ReportTable(const LoadReport& report);

}  // namespace whalepod
