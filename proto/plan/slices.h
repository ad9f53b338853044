// Which elements of each tensor a rank owns: one function for the planner, the validator and tests.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "proto/plan/layout.h"
#include "proto/plan/tensors.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// `batch` blocks of [rows, cols]; block b covers rows [row0 + b * batch_stride, + rows).
struct SliceExtent {
  int64_t tensor_rows = 0, tensor_cols = 0;
  int64_t row0 = 0, rows = 0;
  int64_t col0 = 0, cols = 0;
  int64_t batch = 1, batch_stride = 0;
  bool operator==(const SliceExtent&) const = default;
};

// What the rank at `at` owns of `role`. For expert roles: of each expert of its EP group.
SliceExtent SliceOf(const v1::ModelSpec& model, const v1::Layout& layout, const RankCoords& at,
                    v1::TensorRole role);

// The scale blocks that cover `weight`: rows floor(row0 / block) up to the block of its last row,
// the same for columns.
SliceExtent ScaleSliceOf(const v1::ModelSpec& model, const SliceExtent& weight);

// Bytes in the weight arena.
int64_t DestBytes(const SliceExtent& slice, v1::DType dtype, v1::Transform transform);

constexpr int64_t kDestAlignment = 64;
constexpr int kMaxRanks = 1 << 14;

// Plausible dimensions: all in range, so that no product of them overflows. INVALID_ARGUMENT names
// the field, its value and the limit.
absl::Status CheckModel(const v1::ModelSpec& model);

// The model can be laid out so: products of degrees, dimensions divisible, expert table complete.
// INVALID_ARGUMENT names the dimension and the degrees that work; UNIMPLEMENTED for pp or replicas
// above 1. Needs CheckModel.
absl::Status CheckLayout(const v1::ModelSpec& model, const v1::Layout& layout);

// INVALID_ARGUMENT names the field. Needs CheckModel.
absl::Status CheckRuntime(const v1::ModelSpec& model, const v1::RuntimeSpec& runtime);

}  // namespace whalepod
