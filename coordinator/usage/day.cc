#include "coordinator/usage/day.h"

#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace whalepod {

std::string DayOf(int64_t ms) {
  return absl::FormatCivilTime(absl::ToCivilDay(absl::FromUnixMillis(ms), absl::UTCTimeZone()));
}

bool IsDay(const std::string& text) {
  absl::CivilDay day;
  return absl::ParseCivilTime(text, &day) && absl::FormatCivilTime(day) == text &&
         text.size() == sizeof("2026-11-29") - 1;
}

std::string DayBefore(const std::string& day, int days) {
  absl::CivilDay civil;
  CHECK(absl::ParseCivilTime(day, &civil));
  return absl::FormatCivilTime(civil - days);
}

}  // namespace whalepod
