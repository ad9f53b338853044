#include "proto/plan/validate_slices.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "proto/plan/extents.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

constexpr uint32_t kNoScale = UINT32_MAX;
constexpr uint64_t kMaxOffset = uint64_t{1} << 60;

std::string Text(const SliceExtent& s) {
  return absl::StrCat("[", s.tensor_rows, ", ", s.tensor_cols, "] rows ", s.row0, " + ", s.rows,
                      ", columns ", s.col0, " + ", s.cols, ", batch ", s.batch, " x ",
                      s.batch_stride);
}

bool IsExpertRole(uint32_t role) {
  return role >= v1::TENSOR_ROLE_EXPERT_GATE && role <= v1::TENSOR_ROLE_EXPERT_DOWN;
}

bool SameLengths(const v1::TensorSlices& s, bool bound) {
  const int n = s.name_size();
  for (int size : {s.role_size(), s.is_scale_size(), s.layer_size(), s.expert_size(),
                   s.dtype_size(), s.transform_size(), s.tensor_rows_size(), s.tensor_cols_size(),
                   s.row0_size(), s.rows_size(), s.col0_size(), s.cols_size(), s.batch_size(),
                   s.batch_stride_size(), s.dest_offset_size(), s.dest_bytes_size()}) {
    if (size != n) return false;
  }
  for (int size : {s.file_size(), s.offset_size(), s.run_size(), s.stride_size(), s.count_size()}) {
    if (size != (bound ? n : 0)) return false;
  }
  return true;
}

// A name inside the checkpoint's folder and nowhere else.
bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && !absl::StrContains(name, '/') &&
         !absl::StrContains(name, '\0');
}

}  // namespace

SliceChecker::SliceChecker(const v1::ShardingPlan& header)
    : header_(header), model_(header.model()) {}

absl::Status SliceChecker::Init() {
  // Every tensor has a string of its own, so a short table is refused before room is made for a
  // model's worth of tensors.
  const int64_t needed = MoeLayers(model_) * model_.n_routed_experts() * 3;
  if (header_.strings_size() < needed) {
    return absl::InvalidArgumentError(absl::StrCat("the plan has ", header_.strings_size(),
                                                   " strings, its experts alone need ", needed));
  }
  names_.reserve(static_cast<size_t>(header_.strings_size()));
  for (int i = 0; i < header_.strings_size(); ++i) {
    if (!names_.emplace(header_.strings(i), static_cast<uint32_t>(i)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("string ", i, " \"", header_.strings(i), "\" is there twice"));
    }
  }
  const int64_t layers = model_.num_hidden_layers();
  plain_.resize(static_cast<size_t>(layers * kRoles));
  experts_.resize(static_cast<size_t>(needed));
  places_.resize(static_cast<size_t>(header_.strings_size()));
  int64_t moe = 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    moe_index_.push_back(moe);
    moe += HasExperts(model_, layer);
    for (int r = 1; r < kRoles; ++r) {
      const auto role = static_cast<v1::TensorRole>(r);
      if (!HasRole(model_, role, layer)) continue;
      if (!IsExpertRole(static_cast<uint32_t>(r))) {
        RETURN_IF_ERROR(AddTensor(role, layer, 0));
        ++plain_count_;
        continue;
      }
      for (int64_t e = 0; e < model_.n_routed_experts(); ++e) {
        RETURN_IF_ERROR(AddTensor(role, layer, e));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status SliceChecker::AddTensor(v1::TensorRole role, int64_t layer, int64_t expert) {
  Tensor tensor;
  tensor.role = role;
  const std::string name = TensorName(model_, role, layer, expert, false);
  const auto it = names_.find(name);
  if (it == names_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("the plan does not name tensor ", name));
  }
  tensor.name = it->second;
  if (model_.fp8_block_rows() > 0 && InfoOf(model_, role).quantisable) {
    const auto scale = names_.find(name + "_scale_inv");
    tensor.scale_name = scale == names_.end() ? kNoScale : scale->second;
  }
  const auto l = static_cast<size_t>(layer);
  if (IsExpertRole(role)) {
    experts_[static_cast<size_t>((moe_index_[l] * model_.n_routed_experts() + expert) * 3 +
                                 (role - v1::TENSOR_ROLE_EXPERT_GATE))] = tensor;
  } else {
    plain_[l * kRoles + static_cast<size_t>(role)] = tensor;
  }
  return absl::OkStatus();
}

SliceChecker::Tensor* SliceChecker::Find(uint32_t role, uint32_t layer, uint32_t expert) {
  if (role == 0 || role >= static_cast<uint32_t>(kRoles)) return nullptr;
  if (layer >= static_cast<uint64_t>(model_.num_hidden_layers())) return nullptr;
  Tensor* tensor = nullptr;
  if (IsExpertRole(role)) {
    if (!HasExperts(model_, layer)) return nullptr;
    if (expert >= static_cast<uint64_t>(model_.n_routed_experts())) return nullptr;
    tensor = &experts_[static_cast<size_t>(
        (moe_index_[layer] * model_.n_routed_experts() + static_cast<int64_t>(expert)) * 3 +
        (role - v1::TENSOR_ROLE_EXPERT_GATE))];
  } else {
    if (expert != 0) return nullptr;
    tensor = &plain_[size_t{layer} * kRoles + role];
  }
  return tensor->role == static_cast<v1::TensorRole>(role) ? tensor : nullptr;
}

int64_t SliceChecker::CountOf(const RankCoords& at) const {
  const auto local = static_cast<int64_t>(ExpertsOf(header_.layout(), at.ep).size());
  return plain_count_ + MoeLayers(model_) * local * 3;
}

absl::Status SliceChecker::Wrong(int rank, const v1::TensorSlices& s, int i,
                                 absl::string_view what) const {
  const uint32_t name = s.name(i);
  return absl::InvalidArgumentError(absl::StrCat(
      "rank ", rank, ", slice ", i, " (",
      name < static_cast<uint32_t>(header_.strings_size()) ? header_.strings(static_cast<int>(name))
                                                           : std::string("no name"),
      s.is_scale(i) ? ", scales of " : ", ",
      v1::TensorRole_Name(static_cast<v1::TensorRole>(s.role(i))), "): ", what));
}

absl::Status SliceChecker::CheckRank(int rank, const v1::TensorSlices& s, int64_t arena_bytes) {
  if (!SameLengths(s, header_.bound())) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, ": columns of its slices differ in length"));
  }
  const RankCoords at = CoordsOf(header_.layout(), rank);
  std::vector<Expected> expected(kRoles);
  for (int r = 1; r < kRoles; ++r) {
    const auto role = static_cast<v1::TensorRole>(r);
    Expected& e = expected[static_cast<size_t>(r)];
    e.weight = SliceOf(model_, header_.layout(), at, role);
    e.transform = InfoOf(model_, role).transform;
    if (model_.fp8_block_rows() > 0) e.scale = ScaleSliceOf(model_, e.weight);
  }
  int64_t weights = 0, scaled = 0, scales = 0;
  for (int i = 0; i < s.name_size(); ++i) {
    RETURN_IF_ERROR(CheckSlice(rank, at, s, i, expected));
    if (s.is_scale(i) == 1) {
      ++scales;
    } else {
      ++weights;
      scaled += s.dtype(i) == v1::DTYPE_F8_E4M3;
    }
  }
  if (weights != CountOf(at) || scales != scaled) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " has ", weights, " weights and ",
                                                   scales, " scales, expected ", CountOf(at),
                                                   " weights and ", scaled, " scales"));
  }
  return Annotate(CheckDestinations(s, arena_bytes), absl::StrCat("rank ", rank));
}

absl::Status SliceChecker::CheckSlice(int rank, const RankCoords& at, const v1::TensorSlices& s,
                                      int i, const std::vector<Expected>& expected) {
  Tensor* tensor = Find(s.role(i), s.layer(i), s.expert(i));
  if (tensor == nullptr || s.is_scale(i) > 1) {
    return Wrong(rank, s, i,
                 absl::StrCat("the model has no such tensor (layer ", s.layer(i), ", expert ",
                              s.expert(i), ")"));
  }
  const bool scale = s.is_scale(i) == 1;
  if (IsExpertRole(s.role(i)) &&
      header_.layout().expert_to_ep(static_cast<int>(s.expert(i))) != at.ep) {
    return Wrong(rank, s, i,
                 absl::StrCat("expert ", s.expert(i), " belongs to EP group ",
                              header_.layout().expert_to_ep(static_cast<int>(s.expert(i))),
                              ", the rank is in ", at.ep));
  }
  if (std::exchange(scale ? tensor->scale_seen : tensor->seen, rank) == rank) {
    return Wrong(rank, s, i, "is there twice");
  }
  if (s.name(i) != (scale ? tensor->scale_name : tensor->name)) {
    return Wrong(rank, s, i,
                 absl::StrCat("has the name of another tensor; expected ",
                              TensorName(model_, tensor->role, s.layer(i), s.expert(i), scale)));
  }
  absl::Status type = CheckType(s, i, tensor);
  if (!type.ok()) return Wrong(rank, s, i, type.message());
  const Expected& e = expected[s.role(i)];
  const SliceExtent found = StoredSlice(s, i);
  const SliceExtent& right = scale ? e.scale : e.weight;
  if (found != right) {
    return Wrong(rank, s, i, absl::StrCat("is ", Text(found), ", expected ", Text(right)));
  }
  const v1::Transform transform = scale ? v1::TRANSFORM_COPY : e.transform;
  if (s.transform(i) != static_cast<uint32_t>(transform)) {
    return Wrong(rank, s, i,
                 absl::StrCat("has transform ", s.transform(i), ", expected ",
                              v1::Transform_Name(transform)));
  }
  const int64_t bytes = DestBytes(right, static_cast<v1::DType>(s.dtype(i)), transform);
  if (s.dest_bytes(i) != static_cast<uint64_t>(bytes)) {
    return Wrong(rank, s, i, absl::StrCat("takes ", s.dest_bytes(i), " bytes, expected ", bytes));
  }
  if (!header_.bound()) return absl::OkStatus();
  absl::Status place = CheckPlace(s, i);
  return place.ok() ? place : Wrong(rank, s, i, place.message());
}

absl::Status SliceChecker::CheckType(const v1::TensorSlices& s, int i, Tensor* tensor) {
  if (s.is_scale(i)) {
    if (s.dtype(i) != v1::DTYPE_F32) {
      return absl::InvalidArgumentError("scales must be F32");
    }
    return absl::OkStatus();
  }
  const bool f8 = s.dtype(i) == v1::DTYPE_F8_E4M3;
  if (s.dtype(i) == 0 || s.dtype(i) > v1::DTYPE_F8_E4M3 || (f8 && tensor->scale_name == kNoScale)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot have the element type ", s.dtype(i),
                     v1::DType_Name(static_cast<v1::DType>(s.dtype(i)))));
  }
  const auto dtype = static_cast<v1::DType>(s.dtype(i));
  if (tensor->dtype == v1::DTYPE_UNSPECIFIED) tensor->dtype = dtype;
  if (tensor->dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        "is ", v1::DType_Name(dtype), ", another rank has it as ", v1::DType_Name(tensor->dtype)));
  }
  return absl::OkStatus();
}

absl::Status SliceChecker::CheckPlace(const v1::TensorSlices& s, int i) {
  if (s.file(i) >= static_cast<uint32_t>(header_.strings_size()) ||
      !IsPlainFileName(header_.strings(static_cast<int>(s.file(i))))) {
    return absl::InvalidArgumentError(absl::StrCat("names no file: string ", s.file(i)));
  }
  if (s.offset(i) > kMaxOffset) {
    return absl::InvalidArgumentError(absl::StrCat("offset ", s.offset(i), " is not plausible"));
  }
  const SliceExtent slice = StoredSlice(s, i);
  const auto dtype = static_cast<v1::DType>(s.dtype(i));
  const Extent found = StoredExtent(s, i);
  const int64_t base = found.offset - ExtentOf(slice, dtype, 0).offset;
  const Extent right = ExtentOf(slice, dtype, base);
  if (base < 0 || found.run != right.run || found.stride != right.stride ||
      found.count != right.count) {
    return absl::InvalidArgumentError(
        absl::StrCat("its extent is ", found.offset, ", ", found.count, " runs of ", found.run,
                     " every ", found.stride, " bytes; expected ", right.count, " runs of ",
                     right.run, " every ", right.stride));
  }
  Place& place = places_[s.name(i)];
  if (place.base < 0) {
    place = {base, slice.tensor_rows * slice.tensor_cols * DTypeBytes(dtype), s.file(i)};
  }
  if (place.base != base || place.file != s.file(i)) {
    return absl::InvalidArgumentError(absl::StrCat("its tensor starts at ", base, " of string ",
                                                   s.file(i), ", for another slice at ", place.base,
                                                   " of string ", place.file));
  }
  return absl::OkStatus();
}

absl::Status SliceChecker::CheckDestinations(const v1::TensorSlices& s, int64_t arena_bytes) const {
  const int n = s.name_size();
  std::vector<int> order(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
  const auto before = [&s](int a, int b) { return s.dest_offset(a) < s.dest_offset(b); };
  if (!std::is_sorted(order.begin(), order.end(), before)) {
    std::stable_sort(order.begin(), order.end(), before);
  }
  int64_t end = 0;
  for (int i : order) {
    if (s.dest_offset(i) > kMaxOffset || s.dest_offset(i) % kDestAlignment != 0) {
      return absl::InvalidArgumentError(absl::StrCat("slice ", i, ": destination ",
                                                     s.dest_offset(i), " is not a multiple of ",
                                                     kDestAlignment));
    }
    if (static_cast<int64_t>(s.dest_offset(i)) < end) {
      return absl::InvalidArgumentError(absl::StrCat(
          "slice ", i, ": destination ", s.dest_offset(i), " overlaps one that ends at ", end));
    }
    end = static_cast<int64_t>(s.dest_offset(i) + s.dest_bytes(i));
  }
  if (RoundUp(end, kDestAlignment) != arena_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the slices end at ", end, ", the weight arena has ", arena_bytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status SliceChecker::CheckTotals() const {
  // Unsigned: sums over hostile shapes may wrap, and then differ from the plan's totals or harm
  // nobody.
  uint64_t parameters = 0, tensors = 0, bytes = 0;
  const auto add = [&](const Tensor& tensor) {
    const v1::TensorRole role = tensor.role;
    const bool shared = role == v1::TENSOR_ROLE_KV_B_KT || role == v1::TENSOR_ROLE_KV_B_V ||
                        (role == v1::TENSOR_ROLE_LM_HEAD && model_.tie_word_embeddings());
    if (role == v1::TENSOR_ROLE_UNSPECIFIED || shared) return;
    const TensorInfo info = InfoOf(model_, role);
    ++tensors;
    const auto elements = static_cast<uint64_t>(info.rows * info.cols);
    parameters += elements;
    bytes += elements * static_cast<uint64_t>(DTypeBytes(tensor.dtype));
    if (tensor.dtype != v1::DTYPE_F8_E4M3) return;
    ++tensors;
    bytes += static_cast<uint64_t>(CeilDiv(info.rows, model_.fp8_block_rows()) *
                                   CeilDiv(info.cols, model_.fp8_block_cols()) * 4);
  };
  for (const Tensor& tensor : plain_) add(tensor);
  for (const Tensor& tensor : experts_) add(tensor);
  if (static_cast<uint64_t>(header_.total_parameters()) != parameters ||
      static_cast<uint64_t>(header_.total_tensors()) != tensors ||
      static_cast<uint64_t>(header_.total_bytes()) != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the plan's totals are ", header_.total_parameters(), " parameters, ",
                     header_.total_tensors(), " tensors, ", header_.total_bytes(),
                     " bytes; its tensors have ", parameters, ", ", tensors, ", ", bytes));
  }
  return absl::OkStatus();
}

absl::Status SliceChecker::CheckFiles() {
  if (!header_.bound()) return absl::OkStatus();
  std::vector<std::pair<Place, uint32_t>> placed;
  for (size_t i = 0; i < places_.size(); ++i) {
    if (places_[i].base >= 0) placed.emplace_back(places_[i], static_cast<uint32_t>(i));
  }
  std::sort(placed.begin(), placed.end(), [](const auto& a, const auto& b) {
    return std::pair(a.first.file, a.first.base) < std::pair(b.first.file, b.first.base);
  });
  for (size_t i = 1; i < placed.size(); ++i) {
    const Place& a = placed[i - 1].first;
    const Place& b = placed[i].first;
    if (a.file == b.file && a.base + a.bytes > b.base) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensors ", header_.strings(static_cast<int>(placed[i - 1].second)), " and ",
                       header_.strings(static_cast<int>(placed[i].second)), " share bytes of ",
                       header_.strings(static_cast<int>(a.file))));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTiling(const v1::ModelSpec& model, const v1::Layout& layout) {
  for (int r = 1; r < kRoles; ++r) {
    const auto role = static_cast<v1::TensorRole>(r);
    const TensorInfo info = InfoOf(model, role);
    if (info.split == Split::kReplicated) continue;
    const int parts = info.split == Split::kExpertRows ? layout.moe_tp() : layout.tp();
    const bool by_cols = info.split == Split::kTpCols || info.split == Split::kHeadCols;
    int64_t next = 0;
    for (int p = 0; p < parts; ++p) {
      RankCoords at;
      at.tp = at.moe_tp = p;
      const SliceExtent slice = SliceOf(model, layout, at, role);
      int64_t begin = by_cols ? slice.col0 : slice.row0;
      int64_t size = by_cols ? slice.cols : slice.rows;
      if (info.split == Split::kKvB) {
        // The keys' rows start each head's block; the values' rows end it.
        if (role == v1::TENSOR_ROLE_KV_B_V) begin -= slice.batch_stride - slice.rows;
        size = slice.batch * slice.batch_stride;
      }
      if (begin != next) {
        return absl::InternalError(absl::StrCat(v1::TensorRole_Name(role), ": part ", p,
                                                " starts at ", begin, ", the one before ends at ",
                                                next));
      }
      next += size;
    }
    if (next != (by_cols ? info.cols : info.rows)) {
      return absl::InternalError(absl::StrCat(v1::TensorRole_Name(role), ": its parts end at ",
                                              next, " of ", by_cols ? info.cols : info.rows));
    }
  }
  return absl::OkStatus();
}

}  // namespace whalepod
