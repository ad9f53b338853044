#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"

namespace whalepod {
namespace {

struct Shape {
  int64_t m, k;
  int32_t block_k, phase_k;
  int64_t segment_k;
};

// Ends of the groups, one column at a time.
std::vector<int64_t> GroupEnds(const Shape& s) {
  std::vector<int64_t> ends;
  for (int64_t i = 1; i <= s.k; ++i) {
    if (i == s.k || (i + s.phase_k) % s.block_k == 0 || (s.segment_k > 0 && i % s.segment_k == 0)) {
      ends.push_back(i);
    }
  }
  return ends;
}

constexpr Shape kShapes[] = {{1, 128, 128, 0, 0}, {3, 300, 128, 0, 0},  {2, 300, 128, 100, 0},
                             {4, 257, 128, 1, 0}, {2, 512, 128, 0, 64}, {3, 130, 16, 5, 32},
                             {1, 7, 128, 0, 0},   {5, 400, 128, 64, 96}};

TEST(QuantizeGroups, CountsTheGroups) {
  for (const Shape& s : kShapes) {
    EXPECT_EQ(QuantizeGroups(s.k, s.block_k, s.phase_k, s.segment_k),
              static_cast<int64_t>(GroupEnds(s).size()));
  }
}

TEST(Quantize, EqualsTheDefinitionOnEveryPath) {
  for (IsaPath isa : {IsaPath::kPortable, IsaPath::kAvx2, IsaPath::kAvx512}) {
    auto backend = CreateCpuBackend({.threads = 2, .isa = isa});
    if (!backend.ok()) continue;
    for (DType type : {DType::kF32, DType::kBF16}) {
      for (const Shape& s : kShapes) {
        SCOPED_TRACE(testing::Message() << (*backend)->InstructionPath() << " " << Name(type) << " "
                                        << s.m << "x" << s.k << " phase " << s.phase_k);
        std::mt19937 random(static_cast<uint32_t>(s.k));
        const std::vector<int64_t> ends = GroupEnds(s);
        const int64_t groups = static_cast<int64_t>(ends.size());
        std::vector<float> x(s.m * s.k);
        std::vector<BF16> x_rounded(x.size());
        for (size_t i = 0; i < x.size(); ++i) {
          // One group of each shape stays below the least amax.
          const bool tiny = static_cast<int64_t>(i) % s.k < ends[0];
          x[i] = std::ldexp(static_cast<float>(static_cast<int>(random() % 2001) - 1000),
                            -static_cast<int>(random() % 12) - (tiny ? 30 : 0));
          x_rounded[i] = ToBF16(x[i]);
          if (type == DType::kBF16) x[i] = ToFloat(x_rounded[i]);
        }
        std::vector<BF16> out(x.size());
        std::vector<float> scales(s.m * groups);
        QuantizeArgs args;
        args.m = s.m;
        args.k = args.ldx = args.ldo = s.k;
        args.x = type == DType::kF32 ? static_cast<const void*>(x.data()) : x_rounded.data();
        args.x_type = type;
        args.block_k = s.block_k;
        args.phase_k = s.phase_k;
        args.segment_k = s.segment_k;
        args.out = out.data();
        args.scales = scales.data();
        args.lds = groups;
        ASSERT_TRUE((*backend)->Quantize(args).ok());
        for (int64_t r = 0; r < s.m; ++r) {
          for (int64_t g = 0; g < groups; ++g) {
            float amax = 1e-4f;
            for (int64_t i = g > 0 ? ends[g - 1] : 0; i < ends[g]; ++i) {
              amax = std::fmax(amax, std::fabs(x[r * s.k + i]));
            }
            const float scale = amax / 448.0f;
            ASSERT_EQ(scales[r * groups + g], scale);
            for (int64_t i = g > 0 ? ends[g - 1] : 0; i < ends[g]; ++i) {
              const float want = F8E4M3ToFloat(FloatToF8E4M3(x[r * s.k + i] / scale));
              const float got = ToFloat(out[r * s.k + i]);
              ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want))
                  << r << " " << i << ": " << got << " instead of " << want;
            }
          }
        }
      }
    }
  }
}

TEST(Quantize, NaNStaysNaNInItsGroup) {
  auto backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  std::vector<float> x(256, 1.0f), scales(2);
  x[5] = NAN;
  std::vector<BF16> out(256);
  QuantizeArgs args;
  args.m = 1;
  args.k = args.ldx = args.ldo = 256;
  args.x = x.data();
  args.x_type = DType::kF32;
  args.out = out.data();
  args.scales = scales.data();
  args.lds = 2;
  ASSERT_TRUE((*backend)->Quantize(args).ok());
  EXPECT_TRUE(std::isnan(scales[0]));
  EXPECT_TRUE(std::isnan(ToFloat(out[0])));
  EXPECT_EQ(scales[1], 1.0f / 448.0f);
  EXPECT_EQ(ToFloat(out[200]), 448.0f);
}

}  // namespace
}  // namespace whalepod
