#include "coordinator/api/usage_answer.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/usage/day.h"

namespace whalepod {
namespace {

// Without a first day: this many, the last one included.
constexpr int kDays = 30;

absl::Status CheckDay(const char* field, const std::string& day) {
  if (day.empty() || IsDay(day)) return absl::OkStatus();
  return BadField(field, "MALFORMED", day, "a day such as 2026-11-29");
}

}  // namespace

absl::Status AnswerUsage(UsageStore& store, const std::string& caller, bool all,
                         const v1::GetUsageRequest& request, v1::GetUsageResponse* response) {
  RETURN_IF_ERROR(CheckDay("from_day", request.from_day()));
  RETURN_IF_ERROR(CheckDay("to_day", request.to_day()));
  UsageQuery query;
  query.to_day = request.to_day().empty() ? store.Today() : request.to_day();
  query.from_day =
      request.from_day().empty() ? DayBefore(query.to_day, kDays - 1) : request.from_day();
  if (query.from_day > query.to_day) {
    return BadField("from_day", "OUT_OF_RANGE", query.from_day,
                    absl::StrCat("at most to_day, ", query.to_day));
  }
  if (!all) query.api_key = caller;
  ASSIGN_OR_RETURN(std::vector<v1::UsageRow> rows, store.Read(query));
  for (v1::UsageRow& row : rows) *response->add_rows() = std::move(row);
  response->set_from_day(query.from_day);
  response->set_to_day(query.to_day);
  response->set_in_memory(store.in_memory());
  return absl::OkStatus();
}

}  // namespace whalepod
