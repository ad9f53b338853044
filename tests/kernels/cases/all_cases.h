#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <memory>
#include <vector>

#include "tests/kernels/cases/fp8_matmul_case.h"
#include "tests/kernels/cases/rms_norm_case.h"

namespace whalepod {

// Every case; each device's test runs all of them.
inline std::vector<std::unique_ptr<OpCase>> AllOpCases() {
  std::vector<std::unique_ptr<OpCase>> cases;
  for (DType out : {DType::kF32, DType::kBF16}) {
    cases.push_back(std::make_unique<RmsNormCase>(1, 128, out));
    cases.push_back(std::make_unique<RmsNormCase>(3, 576, out));
    cases.push_back(std::make_unique<RmsNormCase>(5, 83, out));
  }
  for (const Fp8MatMulCase::Shape& shape :
       {Fp8MatMulCase::Shape{1, 64, 128, 1, 0, 0}, Fp8MatMulCase::Shape{5, 96, 256, 1, 0, 0},
        Fp8MatMulCase::Shape{3, 40, 192, 1, 64, 32}, Fp8MatMulCase::Shape{6, 33, 512, 8, 100, 64},
        Fp8MatMulCase::Shape{2, 200, 320, 2, 0, 96}}) {
    cases.push_back(std::make_unique<Fp8MatMulCase>(shape));
  }
  return cases;
}

inline void ExpectCaseHolds(OpCase& op, OpDevice& device) {
  SCOPED_TRACE(op.Name() + " on " + device.Name());
  absl::StatusOr<std::vector<float>> result = op.Run(device);
  ASSERT_TRUE(result.ok()) << result.status();
  const std::vector<float> expected = op.Expected();
  ASSERT_EQ(result->size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (op.Tolerance() == 0) {
      ASSERT_EQ(std::bit_cast<uint32_t>((*result)[i]), std::bit_cast<uint32_t>(expected[i]))
          << "element " << i << ": " << (*result)[i] << " instead of " << expected[i];
    } else {
      ASSERT_LE(std::abs((*result)[i] - expected[i]), op.Tolerance()) << "element " << i;
    }
  }
}

}  // namespace whalepod
