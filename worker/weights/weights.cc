#include "worker/weights/weights.h"

#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/weights/slices.h"

namespace whalepod {
namespace {

using Key = std::tuple<v1::TensorRole, int64_t, int64_t>;  // role, layer, expert

std::string NameOf(const Key& key) {
  const auto& [role, layer, expert] = key;
  return absl::StrCat(v1::TensorRole_Name(role), " of layer ", layer, ", expert ", expert);
}

absl::Status Bad(const Slice& slice, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("plan part: tensor \"", slice.name, "\": ", what));
}

// The form in which the forward pass takes a role.
v1::Transform TransformOf(v1::TensorRole role) {
  switch (role) {
    case v1::TENSOR_ROLE_EMBED:
    case v1::TENSOR_ROLE_FINAL_NORM:
    case v1::TENSOR_ROLE_INPUT_NORM:
    case v1::TENSOR_ROLE_POST_NORM:
    case v1::TENSOR_ROLE_Q_A_NORM:
    case v1::TENSOR_ROLE_KV_A_NORM:
    case v1::TENSOR_ROLE_ROUTER_BIAS:
      return v1::TRANSFORM_COPY;
    case v1::TENSOR_ROLE_KV_B_KT:
      return v1::TRANSFORM_PACK_TRANSPOSED;
    default:
      return v1::TRANSFORM_PACK;
  }
}

// The part of a scale grid that a plan gave this rank.
struct ScaleGrid {
  int64_t row0 = 0, rows = 0;
  int64_t col0 = 0, cols = 0;
  int64_t batch = 1, batch_stride = 0;
  const float* data = nullptr;  // [batch, rows, cols]
};

// Points `matrix`, which holds rows [row0, +rows) and columns of `slice` as batch entry `entry`, at
// its scales. A slice that starts inside a block carries its phase.
absl::Status AttachScales(const Slice& slice, int64_t entry, const ScaleGrid& grid,
                          int64_t block_rows, int64_t block_cols, PackedMatrix& matrix) {
  const int64_t row0 = slice.row0 + entry * slice.batch_stride;
  const int64_t first_row = row0 / block_rows;
  const int64_t last_row = (row0 + slice.rows - 1) / block_rows;
  const int64_t first_col = slice.col0 / block_cols;
  const int64_t last_col = (slice.col0 + slice.cols - 1) / block_cols;
  // One range of scale rows for all entries, or one for each.
  const int64_t scale_entry = grid.batch > 1 ? entry : 0;
  const int64_t grid_row0 = grid.row0 + scale_entry * grid.batch_stride;
  if (scale_entry >= grid.batch || first_row < grid_row0 || last_row >= grid_row0 + grid.rows ||
      first_col < grid.col0 || last_col >= grid.col0 + grid.cols) {
    return Bad(slice, absl::StrCat("needs scales [", first_row, "..", last_row, "][", first_col,
                                   "..", last_col, "], the part has rows ", grid_row0, " +",
                                   grid.rows, " and columns ", grid.col0, " +", grid.cols));
  }
  matrix.scales = grid.data + (scale_entry * grid.rows + first_row - grid_row0) * grid.cols +
                  (first_col - grid.col0);
  const int32_t row_phase = static_cast<int32_t>(row0 % block_rows);
  const int32_t col_phase = static_cast<int32_t>(slice.col0 % block_cols);
  if (slice.transform == v1::TRANSFORM_PACK_TRANSPOSED) {
    matrix.scale_stride_n = 1;
    matrix.scale_stride_k = grid.cols;
    matrix.block_n = static_cast<int32_t>(block_cols);
    matrix.block_k = static_cast<int32_t>(block_rows);
    matrix.phase_n = col_phase;
    matrix.phase_k = row_phase;
  } else {
    matrix.scale_stride_n = grid.cols;
    matrix.scale_stride_k = 1;
    matrix.block_n = static_cast<int32_t>(block_rows);
    matrix.block_k = static_cast<int32_t>(block_cols);
    matrix.phase_n = row_phase;
    matrix.phase_k = col_phase;
  }
  return absl::OkStatus();
}

}  // namespace

struct WeightMap::Impl {
  std::map<Key, PlainTensor> plain;
  std::map<Key, std::vector<PackedMatrix>> packed;
};

absl::StatusOr<WeightMap> WeightMap::Create(const v1::PlanPart& part, void* arena,
                                            int64_t arena_bytes) {
  ASSIGN_OR_RETURN(const std::vector<Slice> slices, ReadSlices(part, arena_bytes));
  const std::byte* base = static_cast<const std::byte*>(arena);
  std::map<Key, ScaleGrid> grids;
  for (const Slice& s : slices) {
    if (!s.is_scale) continue;
    if (s.dtype != DType::kF32 || s.transform != v1::TRANSFORM_COPY) {
      return Bad(s, absl::StrCat("scales are copied F32, found ", Name(s.dtype), " by ",
                                 v1::Transform_Name(s.transform)));
    }
    const ScaleGrid grid = {.row0 = s.row0,
                            .rows = s.rows,
                            .col0 = s.col0,
                            .cols = s.cols,
                            .batch = s.batch,
                            .batch_stride = s.batch_stride,
                            .data = reinterpret_cast<const float*>(base + s.dest_offset)};
    if (!grids.try_emplace({s.role, s.layer, s.expert}, grid).second) {
      return Bad(s, "its scales are listed twice");
    }
  }

  const int64_t block_rows = part.header().model().fp8_block_rows();
  const int64_t block_cols = part.header().model().fp8_block_cols();
  auto impl = std::make_shared<Impl>();
  for (const Slice& s : slices) {
    if (s.is_scale) continue;
    const Key key = {s.role, s.layer, s.expert};
    if (s.transform != TransformOf(s.role)) {
      return Bad(s, absl::StrCat(v1::TensorRole_Name(s.role), " is taken as ",
                                 v1::Transform_Name(TransformOf(s.role)), ", the plan says ",
                                 v1::Transform_Name(s.transform)));
    }
    bool fresh = true;
    if (s.transform == v1::TRANSFORM_COPY) {
      fresh = impl->plain
                  .try_emplace(key, PlainTensor{.data = base + s.dest_offset,
                                                .dtype = s.dtype,
                                                .rows = s.batch * s.rows,
                                                .cols = s.cols})
                  .second;
    } else {
      std::vector<PackedMatrix> entries(s.batch);
      for (int64_t b = 0; b < s.batch; ++b) {
        PackedMatrix& matrix = entries[b];
        matrix.dtype = s.dtype;
        matrix.n = s.N();
        matrix.k = s.K();
        matrix.data = base + s.dest_offset + b * s.PackedEntryBytes();
        if (s.dtype != DType::kF8E4M3 || s.Bytes() == 0) continue;
        const auto grid = grids.find(key);
        if (grid == grids.end()) return Bad(s, "FP8 without scales");
        if (block_rows <= 0 || block_cols <= 0) {
          return Bad(s, absl::StrCat("FP8 with blocks of ", block_rows, " x ", block_cols));
        }
        RETURN_IF_ERROR(AttachScales(s, b, grid->second, block_rows, block_cols, matrix));
      }
      fresh = impl->packed.try_emplace(key, std::move(entries)).second;
    }
    if (!fresh) return Bad(s, absl::StrCat(NameOf(key), " is listed twice"));
  }
  WeightMap map;
  map.impl_ = std::move(impl);
  return map;
}

absl::StatusOr<PlainTensor> WeightMap::Plain(v1::TensorRole role, int64_t layer) const {
  const Key key = {role, layer, 0};
  if (impl_ != nullptr) {
    if (const auto it = impl_->plain.find(key); it != impl_->plain.end()) return it->second;
  }
  return absl::NotFoundError(absl::StrCat("no weights for ", NameOf(key)));
}

absl::StatusOr<std::vector<PackedMatrix>> WeightMap::Packed(v1::TensorRole role, int64_t layer,
                                                            int64_t expert) const {
  const Key key = {role, layer, expert};
  if (impl_ != nullptr) {
    if (const auto it = impl_->packed.find(key); it != impl_->packed.end()) return it->second;
  }
  return absl::NotFoundError(absl::StrCat("no weights for ", NameOf(key)));
}

bool WeightMap::Has(v1::TensorRole role, int64_t layer) const {
  if (impl_ == nullptr) return false;
  const Key first = {role, layer, 0};
  const auto of_layer = [&](const Key& key) {
    return std::get<0>(key) == role && std::get<1>(key) == layer;
  };
  const auto packed = impl_->packed.lower_bound(first);
  return impl_->plain.contains(first) || (packed != impl_->packed.end() && of_layer(packed->first));
}

}  // namespace whalepod
