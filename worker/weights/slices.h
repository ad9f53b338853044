// A plan part's packed columns as checked rows, for the map and the loader alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/dtype.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Packed matrices start on a cache line; slices may be padded up to one.
inline constexpr int64_t kSliceAlignment = 64;

// One slice: `batch` x `rows` x `cols` elements (row-major in the file) and where they go. It may
// be empty: a rank without a share of the vocabulary still has its place in the forward.
struct Slice {
  std::string name;  // of the tensor
  v1::TensorRole role = v1::TENSOR_ROLE_UNSPECIFIED;
  bool is_scale = false;
  int64_t layer = 0;
  int64_t expert = 0;
  DType dtype = DType::kF32;
  v1::Transform transform = v1::TRANSFORM_UNSPECIFIED;
  int64_t tensor_rows = 0, tensor_cols = 0;
  int64_t row0 = 0, rows = 0;
  int64_t col0 = 0, cols = 0;
  int64_t batch = 1, batch_stride = 0;  // stride in tensor rows
  int64_t dest_offset = 0, dest_bytes = 0;
  // Where the bytes are; `run` is 0 in an unbound plan. Element (b, r, c) lies in run
  // (b * rows + r) / run_rows of the slice, at most `run_rows` rows of `cols` elements each.
  std::string file;
  int64_t offset = 0, run = 0, stride = 0, count = 0;
  bool runs_per_entry = false;  // `count` runs for each batch entry, not for all together

  int64_t RowBytes() const { return cols * SizeOf(dtype); }
  int64_t Bytes() const { return batch * rows * RowBytes(); }
  // Shape of one packed matrix (PACK and PACK_TRANSPOSED).
  int64_t N() const { return transform == v1::TRANSFORM_PACK_TRANSPOSED ? cols : rows; }
  int64_t K() const { return transform == v1::TRANSFORM_PACK_TRANSPOSED ? rows : cols; }
  int64_t PackedEntryBytes() const;  // of one batch entry
  // Position in the file of row `r` of batch entry `b`, and how many rows follow without a gap.
  int64_t FileOffset(int64_t b, int64_t r) const;
  int64_t RowsTogether(int64_t b, int64_t r) const;
};

// All slices of the part. INVALID_ARGUMENT names the tensor, what was expected and found: columns
// of unequal length, ranges outside the tensor, destinations outside the arena or overlapping,
// sizes that the transform does not give, extents that do not add up to the slice.
absl::StatusOr<std::vector<Slice>> ReadSlices(const v1::PlanPart& part, int64_t arena_bytes);

}  // namespace whalepod
