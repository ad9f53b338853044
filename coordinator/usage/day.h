// Days in UTC, as "2026-11-29": in the order of their texts.
#pragma once

#include <cstdint>
#include <string>

namespace whalepod {

// `ms`: milliseconds since 1970.
std::string DayOf(int64_t ms);
// Whether `text` is a day that there is.
bool IsDay(const std::string& text);
// `day`: one that there is.
std::string DayBefore(const std::string& day, int days);

}  // namespace whalepod
