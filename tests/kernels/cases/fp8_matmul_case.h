#pragma once

#include <algorithm>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/tree.h"
#include "tests/kernels/cases/op_case.h"

namespace whalepod {

// BF16 rows times an E4M3 matrix with 128x128 block scales; the slice starts inside its blocks.
class Fp8MatMulCase : public OpCase {
 public:
  struct Shape {
    int64_t m, n, k, segments;
    int32_t phase_n, phase_k;
  };

  explicit Fp8MatMulCase(const Shape& shape) : s_(shape) {
    TestRandom random(static_cast<uint64_t>(s_.m * 7919 + s_.n * 31 + s_.k));
    for (int64_t i = 0; i < s_.m * s_.k; ++i) a_.push_back(ToBF16(random.Uniform(-2, 2)));
    for (int64_t i = 0; i < s_.n * s_.k; ++i) {
      w_.push_back(FloatToF8E4M3(random.Uniform(-1, 1) * (i % 97 == 0 ? 400.0f : 0.3f)));
    }
    scale_cols_ = (s_.k + s_.phase_k + kBlock - 1) / kBlock;
    const int64_t scale_rows = (s_.n + s_.phase_n + kBlock - 1) / kBlock;
    for (int64_t i = 0; i < scale_rows * scale_cols_; ++i) {
      scales_.push_back(random.Uniform(0.001f, 0.02f));
    }
  }

  std::string Name() const override {
    return absl::StrCat("Fp8MatMul ", s_.m, "x", s_.n, "x", s_.k, " segments ", s_.segments,
                        " phase ", s_.phase_n, ",", s_.phase_k);
  }

  absl::StatusOr<std::vector<float>> Run(OpDevice& device) override {
    std::vector<std::byte> packed(PackedBytes(DType::kF8E4M3, s_.n, s_.k));
    PackRows(DType::kF8E4M3, w_.data(), s_.k, 0, s_.n, s_.n, s_.k, packed.data());
    PackedMatrix w;
    w.dtype = DType::kF8E4M3;
    w.n = s_.n;
    w.k = s_.k;
    w.data = device.Put(packed);
    w.scales = device.Put(scales_);
    w.scale_stride_n = scale_cols_;
    w.block_n = w.block_k = kBlock;
    w.phase_n = s_.phase_n;
    w.phase_k = s_.phase_k;
    MatMulArgs args;
    args.m = s_.m;
    args.a = device.Put(a_);
    args.lda = s_.k;
    args.w = absl::MakeConstSpan(&w, 1);
    args.ldc = s_.n;
    args.segment_k = s_.segments > 1 ? s_.k / s_.segments : 0;
    args.c = device.Upload(nullptr, s_.m * s_.n * 4);
    if (absl::Status status = device.MatMul(args); !status.ok()) return status;
    std::vector<float> result(s_.m * s_.n);
    device.Download(result.data(), args.c, s_.m * s_.n * 4);
    return result;
  }

  std::vector<float> Expected() const override {
    std::vector<float> result;
    for (int64_t i = 0; i < s_.m; ++i) {
      for (int64_t j = 0; j < s_.n; ++j) {
        const int64_t step = s_.k / s_.segments;
        result.push_back(TreeSum<float>(
            0, s_.segments, [&](int64_t s) { return Segment(i, j, s * step, (s + 1) * step); }));
      }
    }
    return result;
  }

  int64_t Bytes() const override {
    return s_.n * s_.k + s_.m * (2 * s_.k + 4 * s_.n) + static_cast<int64_t>(scales_.size()) * 4;
  }
  int64_t Flops() const override { return 2 * s_.m * s_.n * s_.k; }

 private:
  static constexpr int32_t kBlock = 128;

  float Segment(int64_t i, int64_t j, int64_t begin, int64_t end) const {
    float total = 0;
    for (int64_t k = begin; k < end;) {
      const int64_t stop = std::min(end, k + kBlock - (k + s_.phase_k) % kBlock);
      float acc = 0;
      const float scale =
          scales_[(j + s_.phase_n) / kBlock * scale_cols_ + (k + s_.phase_k) / kBlock];
      for (; k < stop; k += 2) {
        const float odd = k + 1 < stop ? Product(i, j, k + 1, acc) : acc;
        acc = Product(i, j, k, odd);
      }
      k = stop;
      total = std::fma(scale, acc, total);
    }
    return total;
  }
  float Product(int64_t i, int64_t j, int64_t k, float acc) const {
    return std::fma(ToFloat(a_[i * s_.k + k]), F8E4M3ToFloat(w_[j * s_.k + k]), acc);
  }

  const Shape s_;
  std::vector<BF16> a_;
  std::vector<uint8_t> w_;
  std::vector<float> scales_;
  int64_t scale_cols_ = 0;
};

}  // namespace whalepod
