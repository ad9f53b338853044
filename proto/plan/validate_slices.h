// The part of plan validation that deals with tensors; used by validate.cc only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/plan/slices.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Knows every tensor that a model has, and checks ranks' slices against it. The header's model,
// layout and runtime must have passed check_spec.cc; the header outlives the checker.
class SliceChecker {
 public:
  explicit SliceChecker(const v1::ShardingPlan& header);

  // Every tensor's name is in the string table, once. Call first.
  absl::Status Init();
  // Slices of one rank: complete, right, disjoint, inside `arena_bytes`.
  absl::Status CheckRank(int rank, const v1::TensorSlices& slices, int64_t arena_bytes);
  // After all ranks: totals; in bound plans that no two tensors share bytes of a file.
  absl::Status CheckTotals() const;
  absl::Status CheckFiles();

 private:
  struct Tensor {
    v1::TensorRole role = v1::TENSOR_ROLE_UNSPECIFIED;
    uint32_t name = 0;
    uint32_t scale_name = UINT32_MAX;         // none: cannot be FP8
    v1::DType dtype = v1::DTYPE_UNSPECIFIED;  // as the first slice has it
    int seen = -1, scale_seen = -1;           // the last rank with a slice
  };
  // Where a named tensor is in its file, as the first slice has it.
  struct Place {
    int64_t base = -1;
    int64_t bytes = 0;
    uint32_t file = 0;
  };
  struct Expected {
    SliceExtent weight, scale;
    v1::Transform transform = v1::TRANSFORM_UNSPECIFIED;
  };

  absl::Status AddTensor(v1::TensorRole role, int64_t layer, int64_t expert);
  // Null if there is no such tensor.
  Tensor* Find(uint32_t role, uint32_t layer, uint32_t expert);
  int64_t CountOf(const RankCoords& at) const;
  absl::Status CheckSlice(int rank, const RankCoords& at, const v1::TensorSlices& s, int i,
                          const std::vector<Expected>& expected);
  absl::Status CheckType(const v1::TensorSlices& s, int i, Tensor* tensor);
  absl::Status CheckPlace(const v1::TensorSlices& s, int i);
  absl::Status CheckDestinations(const v1::TensorSlices& s, int64_t arena_bytes) const;
  absl::Status Wrong(int rank, const v1::TensorSlices& s, int i, absl::string_view what) const;

  const v1::ShardingPlan& header_;
  const v1::ModelSpec& model_;
  absl::flat_hash_map<absl::string_view, uint32_t> names_;
  std::vector<int64_t> moe_index_;  // by layer: how many layers with experts come before
  std::vector<Tensor> plain_;       // [layer * kRoles + role]
  std::vector<Tensor> experts_;     // [(moe index * experts + expert) * 3 + form]
  std::vector<Place> places_;       // by string
  int64_t plain_count_ = 0;
};

// Over the coordinates of the layout, slices of each role tile its tensor.
absl::Status CheckTiling(const v1::ModelSpec& model, const v1::Layout& layout);

}  // namespace whalepod
