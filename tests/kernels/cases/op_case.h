// One test case per op: it states inputs, the expected result, a tolerance, and the bytes and FLOPs
// of the work, and runs on any device: each CPU path, emulated CUDA, CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace whalepod {

// Where a case runs: its memory and its ops. Copies live until the device does.
class OpDevice {
 public:
  virtual ~OpDevice() = default;
  virtual std::string Name() const = 0;
  // Device memory of `bytes`, filled from `host` unless null.
  virtual void* Upload(const void* host, int64_t bytes) = 0;
  virtual void Download(void* host, const void* device, int64_t bytes) = 0;
  // Run and wait.
  virtual absl::Status RmsNorm(const RmsNormArgs& args) = 0;
  virtual absl::Status MatMul(const MatMulArgs& args) = 0;

  template <typename T>
  T* Put(const std::vector<T>& values) {
    return static_cast<T*>(Upload(values.data(), static_cast<int64_t>(values.size() * sizeof(T))));
  }
};

class OpCase {
 public:
  virtual ~OpCase() = default;
  virtual std::string Name() const = 0;
  // Runs the op on `device`; the result in F32.
  virtual absl::StatusOr<std::vector<float>> Run(OpDevice& device) = 0;
  // What the op must give, from docs/numbers.md in plain scalar code.
  virtual std::vector<float> Expected() const = 0;
  // Largest allowed |result - expected|; 0: bit for bit.
  virtual double Tolerance() const { return 0; }
  virtual int64_t Bytes() const = 0;
  virtual int64_t Flops() const = 0;
};

// xorshift64*: the same numbers everywhere.
class TestRandom {
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  uint64_t Bits() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }
  float Uniform(float low, float high) {
    return low + (high - low) * static_cast<float>(Bits() >> 40) * 0x1p-24f;
  }

 private:
  uint64_t state_;
};

}  // namespace whalepod
