#include "coordinator/cli/usage_text.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/compact_json.h"
#include "base/units.h"
#include "coordinator/usage/sums.h"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;
using Cells = std::vector<std::string>;

const char* NameOf(v1::UsageSource source) {
  switch (source) {
    case v1::USAGE_SOURCE_INTERACTIVE:
      return "interactive";
    case v1::USAGE_SOURCE_JOB:
      return "job";
    default:
      return "unspecified";
  }
}

// In order, each with what it is told apart by alone.
std::vector<v1::UsageRow> Grouped(const v1::GetUsageResponse& usage, UsageBy by) {
  std::map<std::pair<std::string, std::pair<std::string, int>>, v1::UsageRow> groups;
  for (const v1::UsageRow& row : usage.rows()) {
    v1::UsageRow of;
    if (by != UsageBy::kKey) of.set_day(row.day());
    if (by != UsageBy::kDay) of.set_api_key(row.api_key());
    if (by == UsageBy::kBoth) of.set_source(row.source());
    const auto found = groups.insert({{of.day(), {of.api_key(), of.source()}}, of}).first;
    AddRow(row, &found->second);
  }
  std::vector<v1::UsageRow> rows;
  for (auto& [key, row] : groups) rows.push_back(std::move(row));
  return rows;
}

v1::UsageRow TotalOf(const v1::GetUsageResponse& usage) {
  v1::UsageRow total;
  for (const v1::UsageRow& row : usage.rows()) AddRow(row, &total);
  return total;
}

// What a row is told apart by, in the order of NamesOf.
Cells LabelsOf(const v1::UsageRow& row, UsageBy by) {
  const std::string key = row.api_key().empty() ? "-" : row.api_key();
  if (by == UsageBy::kKey) return {key};
  if (by == UsageBy::kDay) return {row.day()};
  return {row.day(), key, NameOf(row.source())};
}

Cells NamesOf(UsageBy by) {
  if (by == UsageBy::kKey) return {"key"};
  if (by == UsageBy::kDay) return {"day"};
  return {"day", "key", "source"};
}

void AddFigures(const v1::UsageRow& row, Cells* cells) {
  for (const uint64_t count : {row.requests(), row.cached_input_tokens(), row.input_tokens(),
                               row.output_tokens(), row.reasoning_tokens()}) {
    cells->push_back(FormatCount(static_cast<int64_t>(count)));
  }
  cells->push_back(absl::StrFormat("$%.6f", row.cost_dollars()));
}

// The first `labels` columns to the left, figures to the right.
std::string Table(const std::vector<Cells>& lines, size_t labels) {
  std::vector<size_t> widths(lines.front().size());
  for (const Cells& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string text;
  for (const Cells& line : lines) {
    for (size_t i = 0; i < line.size(); ++i) {
      const std::string space(widths[i] - line[i].size(), ' ');
      absl::StrAppend(&text, i == 0 ? "" : "  ", i < labels ? line[i] : space,
                      i < labels ? space : line[i]);
    }
    text += "\n";
  }
  return text;
}

Json FiguresOf(const v1::UsageRow& row) {
  return {{"requests", row.requests()},
          {"input_tokens", row.input_tokens()},
          {"cached_input_tokens", row.cached_input_tokens()},
          {"output_tokens", row.output_tokens()},
          {"reasoning_tokens", row.reasoning_tokens()},
          {"cost_dollars", row.cost_dollars()}};
}

}  // namespace

std::string UsageText(const v1::GetUsageResponse& usage, UsageBy by) {
  Cells names = NamesOf(by);
  const size_t labels = names.size();
  for (const char* name : {"requests", "cached input", "input", "output", "reasoning", "cost"}) {
    names.push_back(name);
  }
  std::vector<Cells> lines = {std::move(names)};
  for (const v1::UsageRow& row : Grouped(usage, by)) {
    lines.push_back(LabelsOf(row, by));
    AddFigures(row, &lines.back());
  }
  lines.emplace_back(labels).front() = "total";
  AddFigures(TotalOf(usage), &lines.back());
  return absl::StrCat("usage from ", usage.from_day(), " to ", usage.to_day(),
                      usage.in_memory()
                          ? " (UTC), since the coordinator's start: it has no --state-dir\n"
                          : " (UTC)\n",
                      Table(lines, labels));
}

std::string UsageJson(const v1::GetUsageResponse& usage, UsageBy by) {
  Json rows = Json::array();
  for (const v1::UsageRow& row : Grouped(usage, by)) {
    Json json = Json::object();
    if (by != UsageBy::kKey) json["day"] = row.day();
    if (by != UsageBy::kDay) json["api_key"] = row.api_key();
    if (by == UsageBy::kBoth) json["source"] = NameOf(row.source());
    json.update(FiguresOf(row));
    rows.push_back(std::move(json));
  }
  return CompactJson(Json{{"from_day", usage.from_day()},
                          {"to_day", usage.to_day()},
                          {"in_memory", usage.in_memory()},
                          {"rows", std::move(rows)},
                          {"total", FiguresOf(TotalOf(usage))}}) +
         "\n";
}

}  // namespace whalepod
