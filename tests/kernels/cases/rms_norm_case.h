#pragma once

#include <bit>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/tree.h"
#include "tests/kernels/cases/op_case.h"

namespace whalepod {

class RmsNormCase : public OpCase {
 public:
  RmsNormCase(int64_t tokens, int64_t width, DType out_type)
      : tokens_(tokens), width_(width), out_type_(out_type) {
    TestRandom random(static_cast<uint64_t>(tokens * 1000 + width));
    for (int64_t i = 0; i < tokens * width; ++i) x_.push_back(random.Uniform(-3, 3));
    for (int64_t i = 0; i < width; ++i) weight_.push_back(ToBF16(random.Uniform(0.5f, 1.5f)));
  }

  std::string Name() const override {
    return absl::StrCat("RmsNorm ", tokens_, "x", width_, " to ", ::whalepod::Name(out_type_));
  }

  absl::StatusOr<std::vector<float>> Run(OpDevice& device) override {
    RmsNormArgs args;
    args.tokens = tokens_;
    args.width = args.ldx = args.ldo = width_;
    args.x = device.Put(x_);
    args.weight = device.Put(weight_);
    args.eps = kEps;
    args.out_type = out_type_;
    const int64_t bytes = tokens_ * width_ * SizeOf(out_type_);
    args.out = device.Upload(nullptr, bytes);
    if (absl::Status status = device.RmsNorm(args); !status.ok()) return status;
    std::vector<float> result(tokens_ * width_);
    if (out_type_ == DType::kF32) {
      device.Download(result.data(), args.out, bytes);
    } else {
      std::vector<BF16> rounded(result.size());
      device.Download(rounded.data(), args.out, bytes);
      for (size_t i = 0; i < result.size(); ++i) result[i] = ToFloat(rounded[i]);
    }
    return result;
  }

  std::vector<float> Expected() const override {
    std::vector<float> result;
    for (int64_t t = 0; t < tokens_; ++t) {
      const float* x = x_.data() + t * width_;
      float lanes[16] = {};
      for (int64_t i = 0; i < width_; ++i) lanes[i % 16] = std::fma(x[i], x[i], lanes[i % 16]);
      const float sum = TreeSum<float>(0, 16, [&](int64_t lane) { return lanes[lane]; });
      const float inverse = 1.0f / std::sqrt(sum / static_cast<float>(width_) + kEps);
      for (int64_t i = 0; i < width_; ++i) {
        const float value = x[i] * inverse * ToFloat(weight_[i]);
        result.push_back(out_type_ == DType::kF32 ? value : ToFloat(ToBF16(value)));
      }
    }
    return result;
  }

  int64_t Bytes() const override { return tokens_ * width_ * (4 + SizeOf(out_type_)) + width_ * 2; }
  int64_t Flops() const override { return tokens_ * width_ * 4; }

 private:
  static constexpr float kEps = 1e-6f;
  const int64_t tokens_, width_;
  const DType out_type_;
  std::vector<float> x_;
  std::vector<BF16> weight_;
};

}  // namespace whalepod
