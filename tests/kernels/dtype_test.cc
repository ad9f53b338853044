#include "kernels/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>

namespace whalepod {
namespace {

// From the definition: sign, 4 bits of exponent (bias 7), 3 of mantissa; all ones is NaN.
double ExpectedE4M3(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

// The nearest of the 127 finite magnitudes, ties to the even code; more than 448 is 448.
int NearestE4M3(double x) {
  const double magnitude = std::fabs(x);
  int best = 0;
  double best_distance = magnitude;
  for (int code = 1; code < 0x7f; ++code) {
    const double distance = std::fabs(ExpectedE4M3(code) - magnitude);
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) {
      best = code;
      best_distance = distance;
    }
  }
  return best | (std::signbit(x) ? 0x80 : 0);
}

TEST(E4M3, DecodesEveryCode) {
  for (int code = 0; code < 256; ++code) {
    const float value = F8E4M3ToFloat(static_cast<uint8_t>(code));
    if (std::isnan(ExpectedE4M3(code))) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(value, ExpectedE4M3(code)) << code;
      EXPECT_EQ(std::signbit(value), code >= 128) << code;
    }
  }
}

TEST(E4M3, EncodesEveryBF16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float x = ToFloat(BF16{static_cast<uint16_t>(bits)});
    const int expected = std::isnan(x)   ? 0x7f
                         : std::isinf(x) ? (x < 0 ? 0xfe : 0x7e)
                                         : NearestE4M3(x);
    ASSERT_EQ(FloatToF8E4M3(x), expected) << x;
  }
}

TEST(E4M3, BreaksTiesToEvenAndJustBesideThemToTheNearest) {
  for (int code = 0; code < 0x7e; ++code) {
    const float half = static_cast<float>((ExpectedE4M3(code) + ExpectedE4M3(code + 1)) / 2);
    EXPECT_EQ(FloatToF8E4M3(half), code % 2 == 0 ? code : code + 1) << half;
    EXPECT_EQ(FloatToF8E4M3(std::nextafter(half, 0.0f)), code) << half;
    EXPECT_EQ(FloatToF8E4M3(std::nextafter(half, 1e9f)), code + 1) << half;
  }
  EXPECT_EQ(FloatToF8E4M3(464.0f), 0x7e);
  EXPECT_EQ(FloatToF8E4M3(std::nextafter(464.0f, 1e9f)), 0x7e);
  EXPECT_EQ(FloatToF8E4M3(-1e30f), 0xfe);
}

TEST(E4M3, EveryFiniteCodeRoundTrips) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(FloatToF8E4M3(F8E4M3ToFloat(static_cast<uint8_t>(code))), code);
  }
}

TEST(F16, DecodesEveryPattern) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = static_cast<int>(bits >> 10) & 31,
              mantissa = static_cast<int>(bits) & 1023;
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (exponent == 31 && mantissa != 0) {
      ASSERT_TRUE(std::isnan(value)) << bits;
      continue;
    }
    double expected = exponent == 31  ? INFINITY
                      : exponent == 0 ? std::ldexp(mantissa, -24)
                                      : std::ldexp(1024 + mantissa, exponent - 25);
    if (bits & 0x8000) expected = -expected;
    ASSERT_EQ(value, expected) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
  }
}

TEST(BF16, RoundsToNearestEven) {
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    const float x = ToFloat(BF16{static_cast<uint16_t>(upper)});
    EXPECT_TRUE(std::isnan(x) ? std::isnan(ToFloat(ToBF16(x))) : ToBF16(x).bits == upper) << upper;
    if ((upper & 0x7f80) == 0x7f80) continue;
    const auto rounded = [&](uint32_t lower) {
      return ToBF16(std::bit_cast<float>(upper << 16 | lower)).bits;
    };
    EXPECT_EQ(rounded(0x7fff), upper);
    EXPECT_EQ(rounded(0x8000), upper + (upper & 1));
    EXPECT_EQ(rounded(0x8001), upper + 1);
  }
}

}  // namespace
}  // namespace whalepod
