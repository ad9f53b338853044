// exp, log, sigmoid, silu and the random numbers: the same bits on every path as the plain
// arithmetic, and close to the true values.
#include <gmock/gmock.h>

#include <random>
#include <vector>

#include "tests/kernels/reference.h"

namespace whalepod {

#define WHALEPOD_DECLARE_LANES(isa)                                   \
  namespace cpu::isa {                                                \
  void ExpArray(const float* x, float* out, int64_t n);               \
  void LogArray(const float* x, float* out, int64_t n);               \
  void SigmoidArray(const float* x, float* out, int64_t n);           \
  void SiluArray(const float* x, float* out, int64_t n);              \
  void GumbelArray(const int32_t* words, float* out, int64_t n);      \
  void PhiloxBlocks(uint32_t key0, uint32_t key1, int32_t* counters); \
  void ReduceRows(const float* x, float* out);                        \
  int PositiveOnes(const float* x, float* out);                       \
  }
WHALEPOD_DECLARE_LANES(portable)
WHALEPOD_DECLARE_LANES(avx2)
WHALEPOD_DECLARE_LANES(avx512)

namespace {

using reference::kInf;
using reference::kNan;

struct Lanes {
  const char* name;
  void (*exp)(const float*, float*, int64_t);
  void (*log)(const float*, float*, int64_t);
  void (*sigmoid)(const float*, float*, int64_t);
  void (*silu)(const float*, float*, int64_t);
  void (*gumbel)(const int32_t*, float*, int64_t);
  void (*philox)(uint32_t, uint32_t, int32_t*);
  void (*reduce)(const float*, float*);
  int (*positive_ones)(const float*, float*);
};

#define WHALEPOD_LANES(isa)                                                                    \
  Lanes {                                                                                      \
#isa, cpu::isa::ExpArray, cpu::isa::LogArray, cpu::isa::SigmoidArray, cpu::isa::SiluArray, \
        cpu::isa::GumbelArray, cpu::isa::PhiloxBlocks, cpu::isa::ReduceRows,                   \
        cpu::isa::PositiveOnes                                                                 \
  }

std::vector<Lanes> Paths() {
  std::vector<Lanes> paths = {WHALEPOD_LANES(portable)};
#ifdef WHALEPOD_X86
  if (CreateCpuBackend({.isa = IsaPath::kAvx2}).ok()) paths.push_back(WHALEPOD_LANES(avx2));
  if (CreateCpuBackend({.isa = IsaPath::kAvx512}).ok()) paths.push_back(WHALEPOD_LANES(avx512));
#endif
  return paths;
}

// Distance in units of the last place of the correctly rounded value (in the denormals: of 2^-149).
double Ulps(float found, double truth) {
  const float rounded = static_cast<float>(truth);
  if (std::isinf(rounded) || std::isnan(rounded)) return found == rounded ? 0 : 1e9;
  const float next = std::nextafter(std::fabs(rounded), kInf);
  const double unit = static_cast<double>(next) - std::fabs(rounded);
  return std::fabs(static_cast<double>(found) - truth) / unit;
}

using Fn = float (*)(float);
using TrueFn = double (*)(double);

// Every path against the plain arithmetic (same bits) and against the truth (2 ulp).
void Sweep(const std::vector<float>& inputs, void (*Lanes::*vector)(const float*, float*, int64_t),
           Fn plain, TrueFn truth, double max_ulps) {
  std::vector<float> x = inputs;
  while (x.size() % 16 != 0) x.push_back(1.0f);
  for (const Lanes& path : Paths()) {
    SCOPED_TRACE(path.name);
    std::vector<float> out(x.size());
    (path.*vector)(x.data(), out.data(), static_cast<int64_t>(x.size()));
    double worst = 0;
    float worst_at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_TRUE(reference::SameBits(out[i], plain(x[i]))) << "x = " << x[i];
      if (std::isnan(x[i])) continue;
      const double ulps = Ulps(out[i], truth(x[i]));
      if (ulps > worst) {
        worst = ulps;
        worst_at = x[i];
      }
    }
    EXPECT_LE(worst, max_ulps) << "at x = " << worst_at;
  }
}

// All magnitudes: every `step`-th F32 bit pattern from `first` to `last`.
std::vector<float> Patterns(uint32_t first, uint32_t last, uint32_t step) {
  std::vector<float> x;
  for (uint64_t bits = first; bits <= last; bits += step) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  return x;
}

TEST(Math, ExpIsWithinTwoUlpEverywhere) {
  std::vector<float> x;
  for (int i = -1100000; i <= 900000; i += 7) x.push_back(static_cast<float>(i) * 1e-4f);
  for (float tiny : Patterns(0x00000000u, 0x3f800000u, 100003)) {
    x.push_back(tiny);
    x.push_back(-tiny);
  }
  Sweep(x, &Lanes::exp, reference::Exp, std::exp, 2);
}

TEST(Math, LogIsWithinTwoUlpEverywhere) {
  std::vector<float> x = Patterns(0x00000001u, 0x7f7fffffu, 20011);
  const std::vector<float> near_one = Patterns(0x3f000000u, 0x40000000u, 101);
  x.insert(x.end(), near_one.begin(), near_one.end());
  Sweep(x, &Lanes::log, reference::Log, std::log, 2);
}

TEST(Math, SigmoidAndSiluAreClose) {
  std::vector<float> x;
  for (int i = -100000; i <= 100000; i += 3) x.push_back(static_cast<float>(i) * 8e-4f);
  Sweep(
      x, &Lanes::sigmoid, reference::Sigmoid, [](double v) { return 1 / (1 + std::exp(-v)); }, 3);
  Sweep(
      x, &Lanes::silu, reference::Silu, [](double v) { return v / (1 + std::exp(-v)); }, 3);
}

TEST(Math, SpecialValues) {
  const float x[16] = {-kInf,  kInf,   kNan, 0.0f,   -0.0f, -104.0f, -103.0f, -87.5f,
                       88.72f, 88.73f, 1e30, -1e30f, -1.0f, 1.0f,    1e-45f,  -1e-45f};
  for (const Lanes& path : Paths()) {
    SCOPED_TRACE(path.name);
    float e[16], l[16];
    path.exp(x, e, 16);
    path.log(x, l, 16);
    EXPECT_EQ(e[0], 0.0f);
    EXPECT_FALSE(std::signbit(e[0]));
    EXPECT_EQ(e[1], kInf);
    EXPECT_TRUE(std::isnan(e[2]));
    EXPECT_EQ(e[3], 1.0f);
    EXPECT_EQ(e[4], 1.0f);
    EXPECT_EQ(e[5], 0.0f);
    EXPECT_GT(e[6], 0.0f);  // a denormal
    EXPECT_LT(e[6], 0x1p-126f);
    EXPECT_TRUE(std::isfinite(e[8]));
    EXPECT_EQ(e[9], kInf);
    EXPECT_EQ(e[10], kInf);
    EXPECT_EQ(e[11], 0.0f);
    EXPECT_TRUE(std::isnan(l[0]));
    EXPECT_EQ(l[1], kInf);
    EXPECT_TRUE(std::isnan(l[2]));
    EXPECT_EQ(l[3], -kInf);
    EXPECT_EQ(l[4], -kInf);
    EXPECT_TRUE(std::isnan(l[12]));
    EXPECT_EQ(l[13], 0.0f);
    EXPECT_LT(Ulps(l[14], std::log(static_cast<double>(x[14]))), 2);
    EXPECT_TRUE(std::isnan(l[15]));
  }
}

TEST(Math, CompressStoresTheMasksLanesAndNothingElse) {
  std::mt19937 random(4);
  for (const Lanes& path : Paths()) {
    SCOPED_TRACE(path.name);
    for (int trial = 0; trial < 2000; ++trial) {
      const uint32_t mask = trial == 0 ? 0 : trial == 1 ? 0xffffu : random() & 0xffffu;
      float x[16], out[17];
      std::vector<float> expected;
      for (uint32_t i = 0; i < 16; ++i) {
        x[i] = (mask >> i & 1u) != 0 ? static_cast<float>(i + 1) : -1.0f;
        if (x[i] > 0) expected.push_back(x[i]);
      }
      std::fill(std::begin(out), std::end(out), 99.0f);
      ASSERT_EQ(path.positive_ones(x, out), static_cast<int>(expected.size()));
      expected.resize(17, 99.0f);
      ASSERT_EQ(std::vector<float>(out, out + 17), expected);
    }
  }
}

TEST(Math, ReduceTree16AddsEachVectorInTreeOrder) {
  reference::Random random(3);
  const std::vector<float> x = random.Floats(256, -1e3f, 1e3f);
  for (const Lanes& path : Paths()) {
    SCOPED_TRACE(path.name);
    float out[16];
    path.reduce(x.data(), out);
    for (int i = 0; i < 16; ++i) {
      EXPECT_TRUE(reference::SameBits(out[i], reference::SumLanes(x.data() + 16 * i)));
    }
  }
}

// Known answers of the authors' library (Random123, kat_vectors).
struct KnownAnswer {
  uint32_t counter[4], key[2], block[4];
};
constexpr KnownAnswer kKnownAnswers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};

TEST(Philox, KnownAnswers) {
  for (const KnownAnswer& known : kKnownAnswers) {
    const reference::Words plain = reference::Philox(
        {{known.counter[0], known.counter[1], known.counter[2], known.counter[3]}}, known.key[0],
        known.key[1]);
    EXPECT_THAT(plain.w, testing::ElementsAreArray(known.block));
    for (const Lanes& path : Paths()) {
      SCOPED_TRACE(path.name);
      int32_t words[64];
      for (int i = 0; i < 64; ++i) words[i] = static_cast<int32_t>(known.counter[i / 16]);
      path.philox(known.key[0], known.key[1], words);
      for (int i = 0; i < 64; ++i) {
        ASSERT_EQ(static_cast<uint32_t>(words[i]), known.block[i / 16]) << i;
      }
    }
  }
}

TEST(Gumbel, AccurateToBothEnds) {
  reference::Random random(11);
  std::vector<int32_t> words;
  for (uint32_t w : {0u, 1u, 2u, 0x7fffffffu, 0x80000000u, 0xbfffffffu, 0xc0000000u, 0xffffff7fu,
                     0xffffff80u, 0xfffffffeu, 0xffffffffu}) {
    words.push_back(static_cast<int32_t>(w));
  }
  while (words.size() % 16 != 0 || words.size() < 40000) {
    words.push_back(static_cast<int32_t>(random.Next()));
  }
  for (const Lanes& path : Paths()) {
    SCOPED_TRACE(path.name);
    std::vector<float> out(words.size());
    path.gumbel(words.data(), out.data(), static_cast<int64_t>(words.size()));
    for (size_t i = 0; i < words.size(); ++i) {
      const uint32_t w = static_cast<uint32_t>(words[i]);
      ASSERT_TRUE(reference::SameBits(out[i], reference::Gumbel(w))) << "word " << w;
      const double u = (static_cast<double>(w) + 0.5) * 0x1p-32;
      const double truth = -std::log(-std::log(u));
      ASSERT_NEAR(out[i], truth, 4e-7 * std::fmax(1.0, std::fabs(truth))) << "word " << w;
    }
  }
}

}  // namespace
}  // namespace whalepod
