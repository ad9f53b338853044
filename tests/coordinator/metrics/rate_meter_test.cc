#include "coordinator/metrics/rate_meter.h"

#include "gtest/gtest.h"

namespace whalepod {
namespace {

TimePoint At(int ms) { return TimePoint(std::chrono::milliseconds(ms)); }

TEST(RateMeter, NothingAtFirst) {
  RateMeter meter;
  EXPECT_EQ(meter.Read(At(100)).generation_tokens, 0);
  EXPECT_EQ(meter.Read(At(100)).over, Duration(0));
}

TEST(RateMeter, AveragesOverTheWindow) {
  RateMeter meter;
  // 100 tokens a second for 20 seconds, then 300.
  for (int ms = 0; ms <= 20000; ms += 50) {
    meter.Note(At(ms),
               {.prompt_tokens = 7, .generation_tokens = ms / 10ull, .requests = ms / 500ull});
  }
  RateMeter::Rates rates = meter.Read(At(20000));
  EXPECT_EQ(rates.prompt_tokens, 0);
  EXPECT_DOUBLE_EQ(rates.generation_tokens, 100);
  EXPECT_DOUBLE_EQ(rates.requests, 2);
  EXPECT_EQ(rates.over, RateMeter::kWindow);
  for (int ms = 20050; ms <= 25000; ms += 50) {
    meter.Note(At(ms), {.generation_tokens = 2000 + (ms - 20000) * 3 / 10ull});
  }
  EXPECT_DOUBLE_EQ(meter.Read(At(25000)).generation_tokens, 200);
}

TEST(RateMeter, SilenceIsNoRate) {
  RateMeter meter;
  meter.Note(At(0), {});
  meter.Note(At(1000), {.generation_tokens = 500});
  EXPECT_DOUBLE_EQ(meter.Read(At(1000)).generation_tokens, 500);
  EXPECT_DOUBLE_EQ(meter.Read(At(10000)).generation_tokens, 50);
  EXPECT_EQ(meter.Read(At(20000)).generation_tokens, 0);
}

}  // namespace
}  // namespace whalepod
