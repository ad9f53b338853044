// What the tests of CPU ops share: every backend there is, random numbers, and the arithmetic of
// docs/numbers.md written the plain way, one number at a time.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/dtype.h"
#include "kernels/ops.h"
#include "kernels/tree.h"

namespace whalepod::reference {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline const float kNan = std::nanf("");

// Deterministic: splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  float Uniform(float lo, float hi) {
    return lo + (hi - lo) * static_cast<float>(static_cast<double>(Next() >> 11) * 0x1p-53);
  }
  int64_t Below(int64_t n) { return static_cast<int64_t>(Next() % static_cast<uint64_t>(n)); }
  std::vector<float> Floats(int64_t n, float lo = -1, float hi = 1) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = Uniform(lo, hi);
    return v;
  }

 private:
  uint64_t state_;
};

// A buffer of F32 or BF16 numbers.
class Buffer {
 public:
  Buffer(DType type, int64_t n) : type_(type), bytes_(static_cast<size_t>(n * SizeOf(type))) {}
  Buffer(DType type, const std::vector<float>& values)
      : Buffer(type, static_cast<int64_t>(values.size())) {
    for (size_t i = 0; i < values.size(); ++i) Set(static_cast<int64_t>(i), values[i]);
  }
  DType type() const { return type_; }
  void* data() { return bytes_.data(); }
  const void* data() const { return bytes_.data(); }
  const std::vector<char>& bytes() const { return bytes_; }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()) / SizeOf(type_); }
  // Rounds to the buffer's type.
  void Set(int64_t i, float x) {
    if (type_ == DType::kF32) {
      std::memcpy(bytes_.data() + i * 4, &x, 4);
    } else {
      const BF16 b = ToBF16(x);
      std::memcpy(bytes_.data() + i * 2, &b, 2);
    }
  }
  float Get(int64_t i) const {
    float x;
    BF16 b;
    if (type_ == DType::kF32) {
      std::memcpy(&x, bytes_.data() + i * 4, 4);
      return x;
    }
    std::memcpy(&b, bytes_.data() + i * 2, 2);
    return ToFloat(b);
  }

 private:
  DType type_;
  std::vector<char> bytes_;
};

// Calls fn with a backend of each instruction path this processor has, with 1 and 2 threads.
inline void OnEveryBackend(const std::function<void(Backend&)>& fn) {
  for (IsaPath isa : {IsaPath::kPortable, IsaPath::kAvx2, IsaPath::kAvx512}) {
    for (int threads : {1, 2}) {
      absl::StatusOr<std::unique_ptr<Backend>> backend =
          CreateCpuBackend({.threads = threads, .isa = isa});
      if (!backend.ok()) {
        ASSERT_NE(isa, IsaPath::kPortable) << backend.status();
        static std::set<IsaPath> said;
        if (said.insert(isa).second) GTEST_LOG_(INFO) << "skipped: " << backend.status();
        break;
      }
      SCOPED_TRACE((*backend)->InstructionPath() + ", threads " + std::to_string(threads));
      fn(**backend);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

// Same bits; any NaN equals any other.
inline testing::AssertionResult SameBits(float a, float b) {
  if (std::isnan(a) && std::isnan(b)) return testing::AssertionSuccess();
  if (std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b)) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << a << " (0x" << std::hex << std::bit_cast<uint32_t>(a) << ") instead of " << b << " (0x"
         << std::bit_cast<uint32_t>(b) << ")";
}

inline void ExpectSameBits(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(SameBits(found[i], expected[i])) << "element " << i;
  }
}

inline void ExpectSameBits(const Buffer& found, const Buffer& expected) {
  ASSERT_EQ(found.type(), expected.type());
  ASSERT_EQ(found.size(), expected.size());
  for (int64_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(SameBits(found.Get(i), expected.Get(i))) << "element " << i;
  }
}

inline float SumLanes(const float lanes[16]) {
  return TreeSum<float>(0, 16, [&](int64_t i) { return lanes[i]; });
}

// --- exp, log and what is made of them -----------------------------------------------------------

inline float Exp(float x) {
  if (std::isnan(x)) return x;
  x = std::fmin(std::fmax(x, -110.0f), 90.0f);
  const float n = std::nearbyint(x * 1.44269504089f);
  float r = std::fma(n, -0.693359375f, x);
  r = std::fma(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  for (float c :
       {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) {
    p = std::fma(p, r, c);
  }
  p = std::fma(p, r * r, r) + 1.0f;
  return std::ldexp(p, static_cast<int>(n));
}

inline float LogReduced(float f, float e) {
  const float square = f * f;
  float p = 7.0376836292e-2f;
  for (float c : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                  -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f}) {
    p = std::fma(p, f, c);
  }
  float rest = f * square * p;
  rest = std::fma(e, -2.12194440e-4f, rest);
  rest = std::fma(square, -0.5f, rest);
  return std::fma(e, 0.693359375f, f + rest);
}

inline float Log(float x) {
  if (std::isnan(x) || x < 0) return kNan;
  if (x == 0) return -kInf;
  if (std::isinf(x)) return x;
  int exponent;
  float mantissa = std::frexp(x, &exponent) * 2;  // [1, 2)
  --exponent;
  if (mantissa >= std::bit_cast<float>(0x3fb504f3u)) {  // sqrt(2)
    mantissa /= 2;
    ++exponent;
  }
  return LogReduced(mantissa - 1.0f, static_cast<float>(exponent));
}

inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

// --- random numbers ------------------------------------------------------------------------------

struct Words {
  uint32_t w[4];
};

inline Words Philox(Words c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c.w[0];
    const uint64_t p1 = 0xCD9E8D57ull * c.w[2];
    c = {{static_cast<uint32_t>(p1 >> 32) ^ c.w[1] ^ key0, static_cast<uint32_t>(p1),
          static_cast<uint32_t>(p0 >> 32) ^ c.w[3] ^ key1, static_cast<uint32_t>(p0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return c;
}

inline float Gumbel(uint32_t w) {
  const float u = static_cast<float>(w + 0.5) * 0x1p-32f;
  const float rest = static_cast<float>(~w + 0.5) * 0x1p-32f;
  return -Log(-(rest <= 0.25f ? LogReduced(-rest, 0) : Log(u)));
}

// The noise of one id when a row's token is sampled.
inline float SamplingNoise(uint64_t seed, uint32_t position, uint32_t choice, int64_t id) {
  const Words words = Philox({{position, choice, static_cast<uint32_t>(id / 4), 1}},
                             static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  return Gumbel(words.w[id % 4]);
}

}  // namespace whalepod::reference
