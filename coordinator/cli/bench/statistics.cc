#include "coordinator/cli/bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace whalepod {
namespace {

// When requests come and go: (time, +1 or -1), ends before starts of the same instant. Of completed
// ones until their last chunk, or of all until their calls end.
std::vector<std::pair<double, int>> Changes(const std::vector<LoadRecord>& records, bool all) {
  std::vector<std::pair<double, int>> changes;
  for (const LoadRecord& record : records) {
    if (!record.completed() && !all) continue;
    changes.emplace_back(record.start, 1);
    changes.emplace_back(all ? record.end : record.chunks.back(), -1);
  }
  std::sort(changes.begin(), changes.end());
  return changes;
}

bool IsGood(const LoadRecord& record, const Goals& goals) {
  return (!goals.ttft || record.ttft() <= *goals.ttft) &&
         (!goals.tpot || record.tpot().value_or(0) <= *goals.tpot) &&
         (!goals.e2el || record.e2el() <= *goals.e2el);
}

void FindBusiestSeconds(const std::vector<LoadRecord>& records, LoadFigures* figures) {
  double first = std::numeric_limits<double>::infinity(), last = 0;
  for (const LoadRecord& record : records) {
    if (!record.completed()) continue;
    first = std::min(first, record.start);
    last = std::max(last, record.chunks.back());
  }
  if (first > last) return;
  const auto second_of = [first](double time) { return static_cast<size_t>(time - first); };
  std::vector<int64_t> requests(second_of(last) + 1);
  std::vector<double> tokens(requests.size());
  for (const LoadRecord& record : records) {
    if (!record.completed()) continue;
    for (size_t s = second_of(record.start); s <= second_of(record.chunks.back()); ++s) {
      ++requests[s];
    }
    const double weight =
        static_cast<double>(record.output_tokens) / static_cast<double>(record.chunks.size());
    for (const double time : record.chunks) tokens[second_of(time)] += weight;
  }
  figures->most_requests_in_a_second = *std::max_element(requests.begin(), requests.end());
  figures->most_output_in_a_second = *std::max_element(tokens.begin(), tokens.end());
}

void AddCompleted(const LoadRecord& record, const Goals& goals, LoadFigures* figures) {
  ++figures->completed;
  figures->total_input += record.input_tokens;
  figures->total_output += record.output_tokens;
  figures->counted_by_server &= record.counted_by_server;
  figures->ttfts.push_back(record.ttft());
  figures->e2els.push_back(record.e2el());
  if (const std::optional<double> tpot = record.tpot()) figures->tpots.push_back(*tpot);
  for (size_t i = 1; i < record.chunks.size(); ++i) {
    figures->itls.push_back(record.chunks[i] - record.chunks[i - 1]);
  }
  if (goals.any() && IsGood(record, goals)) ++figures->good;
}

}  // namespace

std::optional<double> LoadRecord::tpot() const {
  if (output_tokens <= 1) return std::nullopt;
  return (e2el() - ttft()) / static_cast<double>(output_tokens - 1);
}

double Percentile(const std::vector<double>& sorted, double percent) {
  const double rank = static_cast<double>(sorted.size() - 1) * percent / 100;
  const auto below = static_cast<size_t>(rank);
  if (below + 1 >= sorted.size()) return sorted.back();
  return sorted[below] + (rank - static_cast<double>(below)) * (sorted[below + 1] - sorted[below]);
}

Summary Summarize(std::vector<double> values, const std::vector<double>& percents) {
  Summary summary;
  for (const double percent : percents) summary.percentiles.emplace_back(percent, 0);
  if (values.empty()) return summary;
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  summary.mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - summary.mean) * (value - summary.mean);
  summary.std = std::sqrt(squares / count);
  summary.median = Percentile(values, 50);
  for (auto& [percent, value] : summary.percentiles) value = Percentile(values, percent);
  return summary;
}

absl::StatusOr<Goals> ParseGoals(const std::vector<std::string>& items) {
  Goals goals;
  for (const std::string& item : items) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(item, absl::MaxSplits(':', 1));
    std::optional<double>* const goal = parts.first == "ttft"   ? &goals.ttft
                                        : parts.first == "tpot" ? &goals.tpot
                                        : parts.first == "e2el" ? &goals.e2el
                                                                : nullptr;
    double milliseconds = 0;
    if (goal == nullptr || !absl::SimpleAtod(parts.second, &milliseconds) || !(milliseconds >= 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("goodput: expected ttft:MS, tpot:MS or e2el:MS, found \"", item, "\""));
    }
    if (*goal) return absl::InvalidArgumentError(absl::StrCat("goodput: two of ", parts.first));
    *goal = milliseconds / 1e3;
  }
  return goals;
}

LoadFigures MakeFigures(const std::vector<LoadRecord>& records, double duration,
                        const std::vector<double>& percents, const Goals& goals) {
  LoadFigures figures;
  figures.duration = duration;
  for (const LoadRecord& record : records) {
    figures.latest = std::max(figures.latest, record.start - record.due);
    if (record.completed()) {
      AddCompleted(record, goals, &figures);
      continue;
    }
    ++figures.failed;
    ++figures.failures[record.failure];
    figures.an_example.emplace(record.failure, record.message);
  }
  int64_t running = 0;
  for (const auto& [time, change] : Changes(records, false)) {
    figures.peak_requests = std::max(figures.peak_requests, running += change);
  }
  FindBusiestSeconds(records, &figures);
  for (auto [values, summary] :
       {std::pair(&figures.ttfts, &figures.ttft), std::pair(&figures.tpots, &figures.tpot),
        std::pair(&figures.itls, &figures.itl), std::pair(&figures.e2els, &figures.e2el)}) {
    std::sort(values->begin(), values->end());
    *summary = Summarize(*values, percents);
  }
  return figures;
}

std::vector<std::pair<double, double>> RunningOverTime(const std::vector<LoadRecord>& records) {
  std::vector<std::pair<double, double>> points;
  double running = 0;
  for (const auto& [time, change] : Changes(records, true)) {
    points.emplace_back(time, running += change);
  }
  return points;
}

std::vector<std::pair<double, double>> OutputOverTime(const std::vector<LoadRecord>& records,
                                                      double duration, double width) {
  std::vector<double> tokens(static_cast<size_t>(duration / width) + 1, 0.0);
  for (const LoadRecord& record : records) {
    if (!record.completed()) continue;
    const double weight =
        static_cast<double>(record.output_tokens) / static_cast<double>(record.chunks.size());
    for (const double time : record.chunks) {
      tokens[std::min(static_cast<size_t>(time / width), tokens.size() - 1)] += weight;
    }
  }
  std::vector<std::pair<double, double>> points;
  for (size_t i = 0; i < tokens.size(); ++i) {
    points.emplace_back((static_cast<double>(i) + 0.5) * width, tokens[i] / width);
  }
  return points;
}

}  // namespace whalepod
