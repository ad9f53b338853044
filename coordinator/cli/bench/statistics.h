// What the records of a load amount to. Names and definitions are those of vLLM's `bench serve`;
// docs/benchmarking.md states them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace whalepod {

// One request. Times are seconds from the start of the load.
struct LoadRecord {
  double due = 0;              // when the schedule wants it sent
  double start = 0;            // when it was sent
  double end = 0;              // when its call was over
  std::vector<double> chunks;  // when each message with tokens came
  int64_t input_tokens = 0, output_tokens = 0;
  bool counted_by_server = false;  // output_tokens is the server's figure
  std::string failure;             // the status's name; empty: completed
  std::string message;             // of the failure

  bool completed() const { return failure.empty(); }
  // Of a completed one, which has a chunk at least.
  double ttft() const { return chunks.front() - start; }
  double e2el() const { return chunks.back() - start; }
  // Time per output token after the first; absent with one token.
  std::optional<double> tpot() const;
};

// Of `sorted` (ascending, not empty), 0 <= percent <= 100: linear between the two nearest ranks,
// rank (n - 1) * percent / 100 counted from 0; numpy's default.
double Percentile(const std::vector<double>& sorted, double percent);

// All 0 where there is no value.
struct Summary {
  double mean = 0, median = 0, std = 0;                // std: of the population
  std::vector<std::pair<double, double>> percentiles;  // (percent, value)
};
Summary Summarize(std::vector<double> values, const std::vector<double>& percents);

// What a request must keep to count as good, in seconds; absent: anything.
struct Goals {
  std::optional<double> ttft, tpot, e2el;
  bool any() const { return ttft || tpot || e2el; }
};
// Items NAME:MILLISECONDS with the names ttft, tpot and e2el; INVALID_ARGUMENT names the item.
absl::StatusOr<Goals> ParseGoals(const std::vector<std::string>& items);

struct LoadFigures {
  double duration = 0;  // seconds
  int64_t completed = 0, failed = 0, good = 0;
  int64_t total_input = 0, total_output = 0;  // tokens of completed requests
  bool counted_by_server = true;              // of all of them
  int64_t peak_requests = 0;                  // most completed requests under way at one instant
  // Of the seconds counted from the first sending: most completed requests that were under way in
  // any part of one, and most of their tokens that came in one.
  int64_t most_requests_in_a_second = 0;
  double most_output_in_a_second = 0;
  double latest = 0;  // the longest that a request was sent after it was due, seconds
  std::map<std::string, int64_t> failures;        // by name
  std::map<std::string, std::string> an_example;  // a message of each
  std::vector<double> ttfts, tpots, itls, e2els;  // of completed requests, seconds, ascending
  Summary ttft, tpot, itl, e2el;                  // seconds

  double PerSecond(double count) const { return duration > 0 ? count / duration : 0; }
};
LoadFigures MakeFigures(const std::vector<LoadRecord>& records, double duration,
                        const std::vector<double>& percents, const Goals& goals);

// (time, value) where the value changes: how many requests, failed ones too, are under way.
std::vector<std::pair<double, double>> RunningOverTime(const std::vector<LoadRecord>& records);
// (time, tokens a second) of pieces of the load that take `width` seconds each, at their middles;
// a chunk counts its request's tokens over its chunks.
std::vector<std::pair<double, double>> OutputOverTime(const std::vector<LoadRecord>& records,
                                                      double duration, double width);

}  // namespace whalepod
