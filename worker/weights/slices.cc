#include "worker/weights/slices.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "kernels/packing.h"

namespace whalepod {
namespace {

// Larger numbers are nonsense, and smaller ones can be multiplied without care once the product of
// a slice's sides is checked.
constexpr uint64_t kMaxSide = uint64_t{1} << 40;
constexpr int64_t kMaxBytes = int64_t{1} << 50;
constexpr int64_t kMaxFile = int64_t{1} << 60;

absl::Status Bad(const Slice& slice, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("plan part: tensor \"", slice.name, "\"",
                                                 slice.is_scale ? " (scales)" : "", ": ", what));
}

absl::Status CheckColumns(const v1::TensorSlices& s) {
  const int n = s.name_size();
  const int sizes[] = {
      s.role_size(),  s.is_scale_size(),     s.layer_size(),       s.expert_size(),
      s.dtype_size(), s.transform_size(),    s.tensor_rows_size(), s.tensor_cols_size(),
      s.row0_size(),  s.rows_size(),         s.col0_size(),        s.cols_size(),
      s.batch_size(), s.batch_stride_size(), s.dest_offset_size(), s.dest_bytes_size()};
  for (const int size : sizes) {
    if (size != n) {
      return absl::InvalidArgumentError(
          absl::StrCat("plan part: slice columns of ", n, " and ", size, " entries"));
    }
  }
  const int bound[] = {s.offset_size(), s.run_size(), s.stride_size(), s.count_size()};
  for (const int size : bound) {
    if (size != s.file_size() || (size != 0 && size != n)) {
      return absl::InvalidArgumentError(absl::StrCat("plan part: extent columns of ", s.file_size(),
                                                     " and ", size, " entries for ", n, " slices"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> StringAt(const v1::PlanPart& part, uint32_t index) {
  if (index >= static_cast<uint32_t>(part.header().strings_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("plan part: string ", index, " of ", part.header().strings_size()));
  }
  return part.header().strings(static_cast<int>(index));
}

absl::Status CheckShape(const Slice& s) {
  if (s.Bytes() == 0) return absl::OkStatus();
  const int64_t last_row = s.row0 + (s.batch - 1) * s.batch_stride + s.rows;
  if (s.batch > 1 && s.batch_stride < s.rows) {
    return Bad(s, absl::StrCat("batch entries of ", s.rows, " rows every ", s.batch_stride));
  }
  if (last_row > s.tensor_rows || s.col0 + s.cols > s.tensor_cols) {
    return Bad(s, absl::StrCat("slice up to row ", last_row, " and column ", s.col0 + s.cols,
                               " of a tensor [", s.tensor_rows, ", ", s.tensor_cols, "]"));
  }
  if (s.Bytes() > kMaxBytes) return Bad(s, absl::StrCat(s.Bytes(), " bytes are too many"));
  return absl::OkStatus();
}

absl::Status CheckDestination(const Slice& s, int64_t arena_bytes) {
  const bool copy = s.transform == v1::TRANSFORM_COPY;
  if (!copy && s.transform != v1::TRANSFORM_PACK && s.transform != v1::TRANSFORM_PACK_TRANSPOSED) {
    return Bad(s, absl::StrCat("unknown transform ", static_cast<int>(s.transform)));
  }
  const int64_t needed = copy ? s.Bytes() : s.batch * s.PackedEntryBytes();
  if (s.dest_bytes != needed && s.dest_bytes != RoundUp(needed, kSliceAlignment)) {
    return Bad(s, absl::StrCat("destination of ", s.dest_bytes, " bytes, expected ", needed));
  }
  if (s.dest_offset < 0 || s.dest_offset > arena_bytes ||
      s.dest_bytes > arena_bytes - s.dest_offset) {
    return Bad(s, absl::StrCat("destination [", s.dest_offset, ", +", s.dest_bytes,
                               ") outside an arena of ", arena_bytes, " bytes"));
  }
  const int64_t alignment = copy ? SizeOf(s.dtype) : kSliceAlignment;
  if (s.dest_offset % alignment != 0) {
    return Bad(s, absl::StrCat("destination ", s.dest_offset, " is not a multiple of ", alignment));
  }
  return absl::OkStatus();
}

// Runs must cut the slice's rows evenly; `runs_per_entry` is what makes the bytes add up.
absl::Status CheckExtent(Slice& s) {
  if (s.Bytes() == 0) return absl::OkStatus();
  if (s.run <= 0 || s.count <= 0 || s.offset < 0 || s.offset > kMaxFile || s.run > kMaxBytes ||
      s.count > s.Bytes()) {
    return Bad(s, absl::StrCat("extent of ", s.count, " runs of ", s.run, " bytes"));
  }
  int64_t total = 0;
  const bool overflows = __builtin_mul_overflow(s.run, s.count, &total) || total > kMaxBytes;
  if (overflows || (total != s.Bytes() && total * s.batch != s.Bytes())) {
    return Bad(s, absl::StrCat("extent of ", s.count, " runs of ", s.run, " bytes for a slice of ",
                               s.Bytes()));
  }
  s.runs_per_entry = total != s.Bytes();
  if (s.run % s.RowBytes() != 0) {
    return Bad(s,
               absl::StrCat("runs of ", s.run, " bytes, not a multiple of a row's ", s.RowBytes()));
  }
  if (s.count > 1 && (s.stride < s.run || s.stride > kMaxFile / s.count)) {
    return Bad(s, absl::StrCat("runs of ", s.run, " bytes every ", s.stride));
  }
  return absl::OkStatus();
}

absl::Status CheckDisjoint(const std::vector<Slice>& slices) {
  std::vector<const Slice*> sorted;
  sorted.reserve(slices.size());
  // A rank may own nothing of a small vocabulary: such a slice stands where the next one begins.
  for (const Slice& slice : slices) {
    if (slice.dest_bytes > 0) sorted.push_back(&slice);
  }
  std::sort(sorted.begin(), sorted.end(),
            [](const Slice* a, const Slice* b) { return a->dest_offset < b->dest_offset; });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const Slice& before = *sorted[i - 1];
    if (before.dest_offset + before.dest_bytes > sorted[i]->dest_offset) {
      return Bad(*sorted[i],
                 absl::StrCat("destination ", sorted[i]->dest_offset, " overlaps \"", before.name,
                              "\" up to ", before.dest_offset + before.dest_bytes));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Slice> ReadSlice(const v1::PlanPart& part, int i) {
  const v1::TensorSlices& columns = part.part().slices();
  Slice s;
  ASSIGN_OR_RETURN(s.name, StringAt(part, columns.name(i)));
  const uint64_t sides[] = {columns.tensor_rows(i), columns.tensor_cols(i), columns.row0(i),
                            columns.rows(i),        columns.col0(i),        columns.cols(i),
                            columns.batch(i),       columns.batch_stride(i)};
  for (const uint64_t side : sides) {
    if (side > kMaxSide) return Bad(s, absl::StrCat("a side of ", side));
  }
  s.role = static_cast<v1::TensorRole>(columns.role(i));
  if (!v1::TensorRole_IsValid(s.role) || s.role == v1::TENSOR_ROLE_UNSPECIFIED) {
    return Bad(s, absl::StrCat("unknown role ", columns.role(i)));
  }
  s.is_scale = columns.is_scale(i) != 0;
  s.layer = columns.layer(i);
  s.expert = columns.expert(i);
  if (columns.dtype(i) < 1 || columns.dtype(i) > 4) {
    return Bad(s, absl::StrCat("unknown dtype ", columns.dtype(i)));
  }
  s.dtype = static_cast<DType>(columns.dtype(i));
  s.transform = static_cast<v1::Transform>(columns.transform(i));
  s.tensor_rows = columns.tensor_rows(i);
  s.tensor_cols = columns.tensor_cols(i);
  s.row0 = columns.row0(i);
  s.rows = columns.rows(i);
  s.col0 = columns.col0(i);
  s.cols = columns.cols(i);
  s.batch = columns.batch(i);
  s.batch_stride = columns.batch_stride(i);
  s.dest_offset = columns.dest_offset(i);
  s.dest_bytes = columns.dest_bytes(i);
  if (columns.file_size() > 0) {
    ASSIGN_OR_RETURN(s.file, StringAt(part, columns.file(i)));
    s.offset = columns.offset(i);
    s.run = columns.run(i);
    s.stride = columns.stride(i);
    s.count = columns.count(i);
  }
  return s;
}

// False if a product of the slice's sides would not fit the arithmetic below.
bool Sane(const Slice& s) {
  int64_t product = 1;
  return !__builtin_mul_overflow(s.batch, s.rows + kPanelRows, &product) &&
         !__builtin_mul_overflow(product, s.cols + kPanelRows, &product) &&
         product < kMaxBytes / 4 && !__builtin_mul_overflow(s.batch, s.batch_stride, &product) &&
         product < kMaxBytes;
}

}  // namespace

int64_t Slice::PackedEntryBytes() const { return PackedBytes(dtype, N(), K()); }

int64_t Slice::FileOffset(int64_t b, int64_t r) const {
  const int64_t run_rows = run / RowBytes();
  const int64_t base =
      runs_per_entry ? offset + b * batch_stride * tensor_cols * SizeOf(dtype) : offset;
  const int64_t row = runs_per_entry ? r : b * rows + r;
  return base + row / run_rows * stride + row % run_rows * RowBytes();
}

int64_t Slice::RowsTogether(int64_t b, int64_t r) const {
  const int64_t run_rows = run / RowBytes();
  if (stride == run) return rows - r;
  const int64_t row = runs_per_entry ? r : b * rows + r;
  return std::min(rows - r, run_rows - row % run_rows);
}

absl::StatusOr<std::vector<Slice>> ReadSlices(const v1::PlanPart& part, int64_t arena_bytes) {
  const v1::TensorSlices& columns = part.part().slices();
  RETURN_IF_ERROR(CheckColumns(columns));
  std::vector<Slice> slices;
  slices.reserve(columns.name_size());
  for (int i = 0; i < columns.name_size(); ++i) {
    ASSIGN_OR_RETURN(Slice slice, ReadSlice(part, i));
    if (!Sane(slice)) return Bad(slice, "its size overflows");
    RETURN_IF_ERROR(CheckShape(slice));
    RETURN_IF_ERROR(CheckDestination(slice, arena_bytes));
    if (!slice.file.empty()) RETURN_IF_ERROR(CheckExtent(slice));
    slices.push_back(std::move(slice));
  }
  RETURN_IF_ERROR(CheckDisjoint(slices));
  return slices;
}

}  // namespace whalepod
