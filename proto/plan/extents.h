// Where a slice's bytes are in a file, as strided runs (TensorSlices.offset, run, stride, count).
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "proto/plan/slices.h"

namespace whalepod {

// `count` runs of `run` bytes, the first at `offset`, starts `stride` apart; per batch entry, see
// batch_offset.
struct Extent {
  int64_t offset = 0, run = 0, stride = 0, count = 0;
  int64_t batch_offset = 0;  // bytes between the first runs of batch entries
  bool operator==(const Extent&) const = default;
};

// `tensor_offset`: of the tensor's first byte in its file. Rows are contiguous in the file, so
// whole rows are one run; an empty slice has count 0.
Extent ExtentOf(const SliceExtent& slice, v1::DType dtype, int64_t tensor_offset);

// Extent of slice `i` of a bound plan, as the columns have it.
Extent StoredExtent(const v1::TensorSlices& slices, int i);

// Slice `i` of the columns; all columns must be longer than i.
SliceExtent StoredSlice(const v1::TensorSlices& slices, int i);

// Calls visit(offset, bytes, dest row, batch entry) for each run of the extent in file order within
// each batch entry; adjacent runs are not joined. Stops at the first error.
absl::Status ForEachRun(const Extent& extent, int64_t batch,
                        const std::function<absl::Status(int64_t offset, int64_t bytes,
                                                         int64_t index, int64_t entry)>& visit);

}  // namespace whalepod
