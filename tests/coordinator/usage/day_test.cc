#include "coordinator/usage/day.h"

#include "gtest/gtest.h"

namespace whalepod {
namespace {

constexpr int64_t kDayMs = 86'400'000;

TEST(Day, BeginsAtMidnightUtc) {
  EXPECT_EQ(DayOf(0), "1970-01-01");
  EXPECT_EQ(DayOf(kDayMs - 1), "1970-01-01");
  EXPECT_EQ(DayOf(kDayMs), "1970-01-02");
  EXPECT_EQ(DayOf(-1), "1969-12-31");
  EXPECT_EQ(DayOf(1'795'910'400'000), "2026-11-29");
  EXPECT_EQ(DayOf(1'795'910'399'999), "2026-11-28");
}

TEST(Day, IsOneOfTheCalendarAndWrittenInOneWay) {
  for (const char* day : {"2026-11-29", "2024-02-29", "1970-01-01"}) {
    EXPECT_TRUE(IsDay(day)) << day;
  }
  for (const char* wrong : {"", "2026", "2026-11", "2026-13-01", "2026-02-29", "2026-11-31",
                            "2026-1-2", " 2026-11-29", "2026-11-29 ", "2026-11-29T00", "26-11-29",
                            "20261129", "-026-11-29", "12026-11-29", "today", "2026/11/29"}) {
    EXPECT_FALSE(IsDay(wrong)) << wrong;
  }
}

TEST(Day, CountsBackOverMonths) {
  EXPECT_EQ(DayBefore("2026-11-29", 0), "2026-11-29");
  EXPECT_EQ(DayBefore("2026-11-29", 29), "2026-10-31");
  EXPECT_EQ(DayBefore("2024-03-01", 1), "2024-02-29");
}

}  // namespace
}  // namespace whalepod
