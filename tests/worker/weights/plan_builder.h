// Plan parts written by hand: slices of made-up tensors, with the extents they have in a file.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/packing.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct TestSlice {
  v1::TensorRole role = v1::TENSOR_ROLE_O;
  int64_t layer = 0;
  int64_t expert = 0;
  bool is_scale = false;
  DType dtype = DType::kBF16;
  v1::Transform transform = v1::TRANSFORM_PACK;
  int64_t tensor_rows = 0, tensor_cols = 0;
  int64_t row0 = 0, rows = 0;
  int64_t col0 = 0, cols = 0;
  int64_t batch = 1, batch_stride = 0;
  std::string file = "a.bin";
  int64_t tensor_offset = 0;  // of the whole tensor in the file
};

class PlanBuilder {
 public:
  explicit PlanBuilder(const std::string& dir) {
    part_.mutable_header()->set_checkpoint_dir(dir);
    part_.mutable_header()->set_bound(true);
    part_.mutable_header()->mutable_model()->set_fp8_block_rows(128);
    part_.mutable_header()->mutable_model()->set_fp8_block_cols(128);
  }

  // Appends the slice behind those before it; returns its offset in the arena.
  int64_t Add(const TestSlice& t) {
    v1::TensorSlices* s = part_.mutable_part()->mutable_slices();
    const int64_t size = SizeOf(t.dtype);
    const bool transposed = t.transform == v1::TRANSFORM_PACK_TRANSPOSED;
    const int64_t entry = t.transform == v1::TRANSFORM_COPY ? t.rows * t.cols * size
                          : transposed                      ? PackedBytes(t.dtype, t.cols, t.rows)
                                                            : PackedBytes(t.dtype, t.rows, t.cols);
    s->add_name(String("tensor" + std::to_string(s->name_size())));
    s->add_role(t.role);
    s->add_is_scale(t.is_scale ? 1 : 0);
    s->add_layer(static_cast<uint32_t>(t.layer));
    s->add_expert(static_cast<uint32_t>(t.expert));
    s->add_dtype(static_cast<uint32_t>(t.dtype));
    s->add_transform(t.transform);
    s->add_tensor_rows(t.tensor_rows);
    s->add_tensor_cols(t.tensor_cols);
    s->add_row0(t.row0);
    s->add_rows(t.rows);
    s->add_col0(t.col0);
    s->add_cols(t.cols);
    s->add_batch(t.batch);
    s->add_batch_stride(t.batch_stride);
    const int64_t dest = arena_bytes_;
    s->add_dest_offset(dest);
    s->add_dest_bytes(t.batch * entry);
    arena_bytes_ = (dest + t.batch * entry + 63) / 64 * 64;
    s->add_file(String(t.file));
    s->add_offset(t.tensor_offset + (t.row0 * t.tensor_cols + t.col0) * size);
    AddRuns(t, s);
    return dest;
  }

  v1::PlanPart& part() { return part_; }
  v1::TensorSlices* slices() { return part_.mutable_part()->mutable_slices(); }
  int64_t arena_bytes() const { return arena_bytes_; }

 private:
  // Whole rows are one run an entry; other slices a run a row. Entries that are evenly spaced with
  // their runs share one extent.
  static void AddRuns(const TestSlice& t, v1::TensorSlices* s) {
    const int64_t row_bytes = t.tensor_cols * SizeOf(t.dtype);
    const bool whole_rows = t.cols == t.tensor_cols;
    if (whole_rows && t.batch > 1 && t.batch_stride == t.rows) {
      s->add_run(t.batch * t.rows * row_bytes);
      s->add_stride(0);
      s->add_count(1);
    } else if (whole_rows) {
      s->add_run(t.rows * row_bytes);
      s->add_stride(t.batch_stride * row_bytes);
      s->add_count(t.batch);
    } else {
      s->add_run(t.cols * SizeOf(t.dtype));
      s->add_stride(row_bytes);
      s->add_count(t.rows);  // for each batch entry
    }
  }

  uint32_t String(const std::string& text) {
    part_.mutable_header()->add_strings(text);
    return static_cast<uint32_t>(part_.header().strings_size() - 1);
  }

  v1::PlanPart part_;
  int64_t arena_bytes_ = 0;
};

}  // namespace whalepod
