#include "coordinator/cli/bench/load_report.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace whalepod {
namespace {

struct Latency {
  const char* name;
  const char* title;
  const Summary* summary;
};

// Those that the report tells.
std::vector<Latency> Latencies(const LoadReport& report) {
  const LoadFigures& figures = report.figures;
  std::vector<Latency> latencies = {
      {"ttft", "Time to First Token", &figures.ttft},
      {"tpot", "Time per Output Token (excl. 1st token)", &figures.tpot},
      {"itl", "Inter-token Latency", &figures.itl},
      {"e2el", "End-to-end Latency", &figures.e2el}};
  std::erase_if(latencies, [&](const Latency& one) { return !report.metrics.contains(one.name); });
  return latencies;
}

// "99", "99.9"
std::string PercentName(double percent) { return absl::StrFormat("%g", percent); }

void AddLine(std::string* table, const std::string& name, const std::string& value) {
  absl::StrAppendFormat(table, "%-45s %s\n", name, value);
}

void AddCount(std::string* table, const std::string& name, int64_t count) {
  AddLine(table, name, absl::StrCat(count));
}

void AddFigure(std::string* table, const std::string& name, double figure) {
  AddLine(table, name, absl::StrFormat("%.2f", figure));
}

void AddTitle(std::string* table, const std::string& title, char fill) {
  const size_t dashes = title.size() < 60 ? 60 - title.size() : 0;
  absl::StrAppend(table, std::string(dashes / 2, fill), title,
                  std::string(dashes - dashes / 2, fill), "\n");
}

void AddLatencies(const LoadReport& report, std::string* table) {
  for (const Latency& latency : Latencies(report)) {
    std::string upper = latency.name;
    absl::AsciiStrToUpper(&upper);
    AddTitle(table, latency.title, '-');
    AddFigure(table, absl::StrCat("Mean ", upper, " (ms):"), 1e3 * latency.summary->mean);
    AddFigure(table, absl::StrCat("Median ", upper, " (ms):"), 1e3 * latency.summary->median);
    for (const auto& [percent, value] : latency.summary->percentiles) {
      AddFigure(table, absl::StrCat("P", PercentName(percent), " ", upper, " (ms):"), 1e3 * value);
    }
  }
}

}  // namespace

double LoadReport::CpuPerToken() const {
  if (figures.total_output == 0) return 0;
  return run.cpu_seconds / static_cast<double>(figures.total_output);
}

double LoadReport::CoresUsed() const { return figures.PerSecond(run.cpu_seconds); }

absl::StatusOr<std::set<std::string>> ParseMetrics(const std::string& text) {
  const std::set<std::string> known = LoadReport().metrics;
  std::set<std::string> metrics;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    if (!known.contains(std::string(item))) {
      return absl::InvalidArgumentError(absl::StrCat(
          "percentile-metrics: expected ttft, tpot, itl or e2el, found \"", item, "\""));
    }
    metrics.emplace(item);
  }
  return metrics;
}

nlohmann::ordered_json ReportJson(const LoadReport& report) {
  const LoadFigures& f = report.figures;
  const auto input = static_cast<double>(f.total_input);
  const auto output = static_cast<double>(f.total_output);
  nlohmann::ordered_json json = report.settings;
  json["duration"] = f.duration;
  json["completed"] = f.completed;
  json["failed"] = f.failed;
  json["failures"] = f.failures;
  json["total_input_tokens"] = f.total_input;
  json["total_output_tokens"] = f.total_output;
  json["output_tokens_counted_by"] = f.counted_by_server ? "server" : "chunks";
  json["request_throughput"] = f.PerSecond(static_cast<double>(f.completed));
  if (report.goals.any()) {
    json["good_completed"] = f.good;
    json["request_goodput"] = f.PerSecond(static_cast<double>(f.good));
  }
  json["input_throughput"] = f.PerSecond(input);
  json["output_throughput"] = f.PerSecond(output);
  json["total_token_throughput"] = f.PerSecond(input + output);
  json["max_output_tokens_per_s"] = f.most_output_in_a_second;
  json["max_concurrent_requests"] = f.most_requests_in_a_second;
  json["peak_concurrent_requests"] = f.peak_requests;
  for (const Latency& latency : Latencies(report)) {
    const auto key = [&latency](const std::string& what) {
      return absl::StrCat(what, "_", latency.name, "_ms");
    };
    json[key("mean")] = 1e3 * latency.summary->mean;
    json[key("median")] = 1e3 * latency.summary->median;
    json[key("std")] = 1e3 * latency.summary->std;
    for (const auto& [percent, value] : latency.summary->percentiles) {
      json[key("p" + PercentName(percent))] = 1e3 * value;
    }
  }
  json["sent_late_ms"] = 1e3 * f.latest;
  json["client_cpu_seconds"] = report.run.cpu_seconds;
  json["client_cpu_us_per_output_token"] = 1e6 * report.CpuPerToken();
  json["client_cores_used"] = report.CoresUsed();
  return json;
}

std::string ReportTable(const LoadReport& report) {
  const LoadFigures& f = report.figures;
  const auto input = static_cast<double>(f.total_input);
  const auto output = static_cast<double>(f.total_output);
  std::string table;
  AddTitle(&table, " Serving Benchmark Result ", '=');
  AddCount(&table, "Successful requests:", f.completed);
  AddCount(&table, "Failed requests:", f.failed);
  for (const auto& [name, count] : f.failures) {
    AddLine(&table, absl::StrCat("  ", name, ":"),
            absl::StrCat(count, "  (", f.an_example.at(name), ")"));
  }
  AddFigure(&table, "Benchmark duration (s):", f.duration);
  AddCount(&table, "Total input tokens:", f.total_input);
  AddCount(&table, "Total generated tokens:", f.total_output);
  if (!f.counted_by_server) AddLine(&table, "  counted by chunks, the server sends no usage", "");
  AddFigure(&table, "Request throughput (req/s):", f.PerSecond(static_cast<double>(f.completed)));
  if (report.goals.any()) {
    AddFigure(&table, "Request goodput (req/s):", f.PerSecond(static_cast<double>(f.good)));
  }
  AddFigure(&table, "Input token throughput (tok/s):", f.PerSecond(input));
  AddFigure(&table, "Output token throughput (tok/s):", f.PerSecond(output));
  AddFigure(&table, "Peak output token throughput (tok/s):", f.most_output_in_a_second);
  AddCount(&table, "Peak concurrent requests:", f.most_requests_in_a_second);
  AddCount(&table, "  at one instant:", f.peak_requests);
  AddFigure(&table, "Total token throughput (tok/s):", f.PerSecond(input + output));
  AddLatencies(report, &table);
  AddTitle(&table, "This client", '-');
  AddFigure(&table, "CPU per output token (us):", 1e6 * report.CpuPerToken());
  AddFigure(&table, "Cores used:", report.CoresUsed());
  AddFigure(&table, "Requests sent late by at most (ms):", 1e3 * f.latest);
  AddTitle(&table, "", '=');
  return table;
}

}  // namespace whalepod
