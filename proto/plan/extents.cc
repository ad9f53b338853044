#include "proto/plan/extents.h"

#include "base/status.h"
#include "proto/plan/memory.h"

namespace whalepod {

Extent ExtentOf(const SliceExtent& slice, v1::DType dtype, int64_t tensor_offset) {
  const int64_t size = DTypeBytes(dtype);
  const int64_t row_bytes = slice.tensor_cols * size;
  Extent extent;
  extent.offset = tensor_offset + slice.row0 * row_bytes + slice.col0 * size;
  extent.batch_offset = slice.batch_stride * row_bytes;
  if (slice.rows == 0 || slice.cols == 0 || slice.batch == 0) return extent;
  if (slice.cols == slice.tensor_cols) {
    extent.run = extent.stride = slice.rows * row_bytes;
    extent.count = 1;
  } else {
    extent.run = slice.cols * size;
    extent.stride = row_bytes;
    extent.count = slice.rows;
  }
  return extent;
}

Extent StoredExtent(const v1::TensorSlices& s, int i) {
  Extent extent;
  extent.offset = static_cast<int64_t>(s.offset(i));
  extent.run = static_cast<int64_t>(s.run(i));
  extent.stride = static_cast<int64_t>(s.stride(i));
  extent.count = static_cast<int64_t>(s.count(i));
  extent.batch_offset =
      static_cast<int64_t>(s.batch_stride(i) * s.tensor_cols(i) *
                           static_cast<uint64_t>(DTypeBytes(static_cast<v1::DType>(s.dtype(i)))));
  return extent;
}

SliceExtent StoredSlice(const v1::TensorSlices& s, int i) {
  const auto value = [](uint64_t v) { return static_cast<int64_t>(v); };
  return {.tensor_rows = value(s.tensor_rows(i)),
          .tensor_cols = value(s.tensor_cols(i)),
          .row0 = value(s.row0(i)),
          .rows = value(s.rows(i)),
          .col0 = value(s.col0(i)),
          .cols = value(s.cols(i)),
          .batch = value(s.batch(i)),
          .batch_stride = value(s.batch_stride(i))};
}

absl::Status ForEachRun(const Extent& extent, int64_t batch,
                        const std::function<absl::Status(int64_t offset, int64_t bytes,
                                                         int64_t index, int64_t entry)>& visit) {
  for (int64_t entry = 0; entry < batch; ++entry) {
    for (int64_t i = 0; i < extent.count; ++i) {
      RETURN_IF_ERROR(visit(extent.offset + entry * extent.batch_offset + i * extent.stride,
                            extent.run, i, entry));
    }
  }
  return absl::OkStatus();
}

}  // namespace whalepod
