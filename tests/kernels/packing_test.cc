#include "kernels/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/kernels/packed_index.h"

namespace whalepod {
namespace {

template <typename T>
void ExpectPacked(DType dtype, int64_t n, int64_t k) {
  SCOPED_TRACE(testing::Message() << Name(dtype) << " " << n << "x" << k);
  const int64_t stride = k + 3;
  std::vector<T> w(n * stride), transposed(k * (n + 5));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      w[i * stride + j] = static_cast<T>(i * 131 + j + 1);
      transposed[j * (n + 5) + i] = w[i * stride + j];
    }
  }
  const int64_t bytes = PackedBytes(dtype, n, k);
  std::vector<T> whole(bytes / sizeof(T), static_cast<T>(99)), parts = whole, turned = whole;
  PackRows(dtype, w.data(), stride, 0, n, n, k, whole.data());
  // The last range first: ranges do not depend on each other.
  for (int64_t row0 = (n - 1) / 32 * 32; row0 >= 0; row0 -= 32) {
    const int64_t rows = std::min<int64_t>(32, n - row0);
    PackRows(dtype, w.data() + row0 * stride, stride, row0, rows, n, k, parts.data());
  }
  PackTransposed(dtype, transposed.data(), n + 5, n, k, turned.data());

  std::vector<T> expected(whole.size(), 0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      T value = w[i * stride + j];
      if constexpr (sizeof(T) == 1) value = PackedE4M3(value);
      expected[PackedIndex(dtype, i, j, k)] = value;
    }
  }
  EXPECT_EQ(whole, expected);
  EXPECT_EQ(parts, expected);
  EXPECT_EQ(turned, expected);
}

TEST(Packing, PutsEachElementInItsLaneAndZerosElsewhere) {
  for (int64_t n : {1, 31, 32, 33, 100}) {
    for (int64_t k : {1, 2, 7, 64, 201}) {
      ExpectPacked<uint32_t>(DType::kF32, n, k);
      ExpectPacked<uint16_t>(DType::kBF16, n, k);
      ExpectPacked<uint16_t>(DType::kF16, n, k);
      ExpectPacked<uint8_t>(DType::kF8E4M3, n, k);
    }
  }
}

TEST(Packing, KeepsEveryE4M3NumberButTheSignOfZero) {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    const float kept = F8E4M3ToFloat(UnpackedE4M3(PackedE4M3(byte)));
    if (std::isnan(F8E4M3ToFloat(byte))) {
      EXPECT_TRUE(std::isnan(kept)) << code;
    } else {
      EXPECT_EQ(kept, F8E4M3ToFloat(byte)) << code;
    }
    const bool special = (PackedE4M3(byte) & kPackedE4M3Exponent) == 0;
    EXPECT_EQ(special, (code & 0x78) == 0 || (code & 0x7f) == 0x7f) << code;
  }
}

TEST(Packing, GivesEachE4M3WeightOfAPairAPlaceOfItsOwn) {
  std::vector<int> taken(64, 0);
  for (int64_t output = 0; output < 32; ++output) {
    for (int64_t input = 0; input < 2; ++input) ++taken[PackedE4M3At(output, input)];
  }
  EXPECT_EQ(taken, std::vector<int>(64, 1));
}

}  // namespace
}  // namespace whalepod
