// Builds the slices of ranks as packed columns. Ranks that stand at equal coordinates share the
// work that depends on those coordinates alone.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "proto/plan/slices.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

class SliceBuilder {
 public:
  // Makes the string table of all tensors, in the order of layers. `checkpoint` gives element
  // types and may be null. Both outlive the builder.
  static absl::StatusOr<SliceBuilder> Create(const v1::ModelSpec& model, const v1::Layout& layout,
                                             const Checkpoint* checkpoint);

  // Slices of `rank` with destinations; returns the bytes of its weight arena.
  int64_t Build(int rank, v1::TensorSlices* slices) const;
  int64_t SliceCount(int rank) const;

  const std::vector<std::string>& strings() const { return strings_; }
  int64_t total_parameters() const { return parameters_; }
  int64_t total_tensors() const { return static_cast<int64_t>(strings_.size()); }
  int64_t total_bytes() const { return bytes_; }

 private:
  // One (role, layer, expert) of the model.
  struct Entry {
    v1::TensorRole role;
    uint32_t layer = 0, expert = 0;
    uint32_t name = 0;        // index into strings_
    uint32_t scale_name = 0;  // only if scaled
    v1::DType dtype = v1::DTYPE_UNSPECIFIED;
    bool scaled = false;
  };
  struct Extents {
    SliceExtent weight, scale;
    v1::Transform transform;
  };
  using ExtentTable = std::array<Extents, kRoles>;

  SliceBuilder(const v1::ModelSpec& model, const v1::Layout& layout)
      : model_(model), layout_(layout) {}
  absl::Status AddRole(v1::TensorRole role, int64_t layer, int64_t expert,
                       const Checkpoint* checkpoint);
  absl::Status AddEntries(const Checkpoint* checkpoint);
  ExtentTable ExtentsOf(const RankCoords& at) const;
  void Emit(const Entry& entry, const Extents& extents, int64_t* offset,
            v1::TensorSlices* slices) const;

  const v1::ModelSpec& model_;
  const v1::Layout& layout_;
  std::vector<std::string> strings_;
  std::vector<Entry> entries_;
  int64_t parameters_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace whalepod
