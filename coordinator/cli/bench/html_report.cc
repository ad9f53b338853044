#include "coordinator/cli/bench/html_report.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/cli/bench/plot.h"

namespace whalepod {
namespace {

constexpr int kBins = 60;
constexpr double kHistogramPercent = 99.5;
constexpr const char* kHead = R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>Load report</title>
<style>
body { font: 14px sans-serif; margin: 24px; max-width: 1340px; color: #222; }
table { border-collapse: collapse; margin: 8px 24px 8px 0; display: inline-table; vertical-align: top; }
td, th { border: 1px solid #ccc; padding: 3px 8px; text-align: right; }
td:first-child, th:first-child { text-align: left; }
figure { display: inline-block; width: 640px; margin: 8px; }
figcaption { font-weight: bold; }
</style></head><body>
<h1>Load report</h1>
)";

std::vector<double> Milliseconds(std::vector<double> seconds) {
  for (double& value : seconds) value *= 1e3;
  return seconds;
}

std::string Cell(const nlohmann::ordered_json& value) {
  if (value.is_number_float()) return absl::StrFormat("%.6g", value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

void AddRow(const std::string& name, const std::string& value, std::string* html) {
  absl::StrAppend(html, "<tr><td>", EscapeXml(name), "</td><td>", EscapeXml(value), "</td></tr>\n");
}

// Everything of the JSON report but the latencies, which have a table of their own.
void AddTables(const LoadReport& report, std::string* html) {
  const nlohmann::ordered_json json = ReportJson(report);
  const auto is_latency = [](const std::string& key) {
    return key.ends_with("_ttft_ms") || key.ends_with("_tpot_ms") || key.ends_with("_itl_ms") ||
           key.ends_with("_e2el_ms");
  };
  const size_t settings = report.settings.size();
  size_t row = 0;
  absl::StrAppend(html, "<table><tr><th>asked for</th><th></th></tr>\n");
  for (const auto& [key, value] : json.items()) {
    if (row++ == settings) {
      absl::StrAppend(html, "</table>\n<table><tr><th>found</th><th></th></tr>\n");
    }
    if (!is_latency(key) && key != "failures") AddRow(key, Cell(value), html);
  }
  for (const auto& [name, count] : report.figures.failures) {
    AddRow(absl::StrCat("failed: ", name, " (", report.figures.an_example.at(name), ")"),
           absl::StrCat(count), html);
  }
  absl::StrAppend(html, "</table>\n");
}

void AddLatencyTable(const LoadReport& report, std::string* html) {
  const LoadFigures& figures = report.figures;
  absl::StrAppend(html, "<table><tr><th>ms</th><th>mean</th><th>std</th><th>median</th>");
  for (const auto& [percent, value] : figures.ttft.percentiles) {
    absl::StrAppendFormat(html, "<th>p%g</th>", percent);
  }
  absl::StrAppend(html, "</tr>\n");
  for (const auto& [name, summary] :
       {std::pair("TTFT", &figures.ttft), std::pair("TPOT", &figures.tpot),
        std::pair("ITL", &figures.itl), std::pair("E2EL", &figures.e2el)}) {
    if (!report.metrics.contains(absl::AsciiStrToLower(name))) continue;
    absl::StrAppendFormat(html, "<tr><td>%s</td><td>%.2f</td><td>%.2f</td><td>%.2f</td>", name,
                          1e3 * summary->mean, 1e3 * summary->std, 1e3 * summary->median);
    for (const auto& [percent, value] : summary->percentiles) {
      absl::StrAppendFormat(html, "<td>%.2f</td>", 1e3 * value);
    }
    absl::StrAppend(html, "</tr>\n");
  }
  absl::StrAppend(html, "</table>\n");
}

void AddPlot(const Plot& plot, std::string* html) {
  absl::StrAppend(html, "<figure><figcaption>", EscapeXml(plot.title), "</figcaption>\n",
                  PlotSvg(plot), "</figure>\n");
}

void AddDistributions(const LoadFigures& f, std::string* html) {
  AddPlot({.title = "Time to first token and end to end",
           .x_label = "ms",
           .y_label = "% of requests",
           .curves = {{"TTFT", Cdf(Milliseconds(f.ttfts))}, {"E2EL", Cdf(Milliseconds(f.e2els))}}},
          html);
  AddPlot({.title = "Time per output token and between tokens",
           .x_label = "ms",
           .y_label = "%",
           .curves = {{"TPOT", Cdf(Milliseconds(f.tpots))}, {"ITL", Cdf(Milliseconds(f.itls))}}},
          html);
  AddPlot({.title = absl::StrFormat("Inter-token latency; the last bar has all above the p%g",
                                    kHistogramPercent),
           .x_label = "ms",
           .y_label = "count",
           .curves = {{"ITL", Histogram(Milliseconds(f.itls), kBins, kHistogramPercent)}},
           .bars = true},
          html);
}

void AddTimelines(const LoadReport& report, std::string* html) {
  AddPlot({.title = "Requests under way",
           .x_label = "s",
           .y_label = "requests",
           .curves = {{"running", RunningOverTime(report.run.records)}},
           .steps = true},
          html);
  const double duration = report.figures.duration;
  const double width = std::max(duration / 100, 1e-3);
  AddPlot({.title = absl::StrFormat("Output, over pieces of %.3g s", width),
           .x_label = "s",
           .y_label = "tokens/s",
           .curves = {{"output", OutputOverTime(report.run.records, duration, width)}}},
          html);
}

}  // namespace

std::string ReportHtml(const LoadReport& report) {
  std::string html = kHead;
  AddTables(report, &html);
  AddLatencyTable(report, &html);
  AddDistributions(report.figures, &html);
  AddTimelines(report, &html);
  return html + "</body></html>\n";
}

}  // namespace whalepod
