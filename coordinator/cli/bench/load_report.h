// A load's figures for people and for programs.
#pragma once

#include <string>

#include "coordinator/cli/bench/load.h"
#include "coordinator/cli/bench/statistics.h"
#include "nlohmann/json.hpp"

namespace whalepod {

struct LoadReport {
  nlohmann::ordered_json settings;  // flat: what was asked for
  Goals goals;
  LoadFigures figures;
  LoadRun run;

  // Of this process, per output token of completed requests; 0 without one.
  double CpuPerToken() const;
  // The part of one core that this process took.
  double CoresUsed() const;
};

// One object: the settings, and the figures under the names of vLLM's --save-result where it has
// them (mean_ttft_ms, p99_ttft_ms, request_throughput, ...).
nlohmann::ordered_json ReportJson(const LoadReport& report);
// The table of vLLM's `bench serve`, with the failures by name and this process's own CPU.
std::string ReportTable(const LoadReport& report);

}  // namespace whalepod
