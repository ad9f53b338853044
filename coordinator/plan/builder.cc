#include "coordinator/plan/builder.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

constexpr v1::TensorRole kLayerRoles[] = {
    v1::TENSOR_ROLE_INPUT_NORM, v1::TENSOR_ROLE_Q,           v1::TENSOR_ROLE_Q_A,
    v1::TENSOR_ROLE_Q_A_NORM,   v1::TENSOR_ROLE_Q_B,         v1::TENSOR_ROLE_KV_A,
    v1::TENSOR_ROLE_KV_A_NORM,  v1::TENSOR_ROLE_KV_B_K,      v1::TENSOR_ROLE_KV_B_KT,
    v1::TENSOR_ROLE_KV_B_V,     v1::TENSOR_ROLE_O,           v1::TENSOR_ROLE_POST_NORM,
    v1::TENSOR_ROLE_GATE,       v1::TENSOR_ROLE_UP,          v1::TENSOR_ROLE_DOWN,
    v1::TENSOR_ROLE_ROUTER,     v1::TENSOR_ROLE_ROUTER_BIAS, v1::TENSOR_ROLE_SHARED_GATE,
    v1::TENSOR_ROLE_SHARED_UP,  v1::TENSOR_ROLE_SHARED_DOWN};
constexpr v1::TensorRole kExpertRoles[] = {v1::TENSOR_ROLE_EXPERT_GATE, v1::TENSOR_ROLE_EXPERT_UP,
                                           v1::TENSOR_ROLE_EXPERT_DOWN};

// A role whose tensor an earlier role already brought in.
bool SharesTensor(const v1::ModelSpec& model, v1::TensorRole role) {
  return role == v1::TENSOR_ROLE_KV_B_KT || role == v1::TENSOR_ROLE_KV_B_V ||
         (role == v1::TENSOR_ROLE_LM_HEAD && model.tie_word_embeddings());
}

void Reserve(int64_t n, v1::TensorSlices* s) {
  const int count = static_cast<int>(n);
  for (auto* column :
       {s->mutable_name(), s->mutable_role(), s->mutable_is_scale(), s->mutable_layer(),
        s->mutable_expert(), s->mutable_dtype(), s->mutable_transform()}) {
    column->Reserve(count);
  }
  for (auto* column :
       {s->mutable_tensor_rows(), s->mutable_tensor_cols(), s->mutable_row0(), s->mutable_rows(),
        s->mutable_col0(), s->mutable_cols(), s->mutable_batch(), s->mutable_batch_stride(),
        s->mutable_dest_offset(), s->mutable_dest_bytes()}) {
    column->Reserve(count);
  }
}

}  // namespace

absl::StatusOr<SliceBuilder> SliceBuilder::Create(const v1::ModelSpec& model,
                                                  const v1::Layout& layout,
                                                  const Checkpoint* checkpoint) {
  SliceBuilder builder(model, layout);
  RETURN_IF_ERROR(builder.AddEntries(checkpoint));
  return builder;
}

absl::Status SliceBuilder::AddEntries(const Checkpoint* checkpoint) {
  RETURN_IF_ERROR(AddRole(v1::TENSOR_ROLE_EMBED, 0, 0, checkpoint));
  for (int64_t layer = 0; layer < model_.num_hidden_layers(); ++layer) {
    for (v1::TensorRole role : kLayerRoles) {
      if (HasRole(model_, role, layer)) RETURN_IF_ERROR(AddRole(role, layer, 0, checkpoint));
    }
    if (!HasExperts(model_, layer)) continue;
    for (int64_t expert = 0; expert < model_.n_routed_experts(); ++expert) {
      for (v1::TensorRole role : kExpertRoles) {
        RETURN_IF_ERROR(AddRole(role, layer, expert, checkpoint));
      }
    }
  }
  RETURN_IF_ERROR(AddRole(v1::TENSOR_ROLE_FINAL_NORM, 0, 0, checkpoint));
  return AddRole(v1::TENSOR_ROLE_LM_HEAD, 0, 0, checkpoint);
}

absl::Status SliceBuilder::AddRole(v1::TensorRole role, int64_t layer, int64_t expert,
                                   const Checkpoint* checkpoint) {
  const TensorInfo info = InfoOf(model_, role);
  Entry entry{
      .role = role, .layer = static_cast<uint32_t>(layer), .expert = static_cast<uint32_t>(expert)};
  entry.scaled = info.quantisable && model_.fp8_block_rows() > 0;
  entry.dtype = entry.scaled                          ? v1::DTYPE_F8_E4M3
                : role == v1::TENSOR_ROLE_ROUTER_BIAS ? v1::DTYPE_F32
                                                      : v1::DTYPE_BF16;
  std::string name = TensorName(model_, role, layer, expert, false);
  if (checkpoint != nullptr) {
    const auto it = checkpoint->tensors.find(name);
    if (it == checkpoint->tensors.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat(checkpoint->dir, " has no tensor ", name, ", which the plan needs"));
    }
    entry.dtype = it->second.dtype;
    entry.scaled = entry.dtype == v1::DTYPE_F8_E4M3;
  }
  if (SharesTensor(model_, role)) {
    // The role that brought it in is a few entries back, or the first.
    const Entry* owner = &entries_.front();
    for (size_t i = entries_.size(); role != v1::TENSOR_ROLE_LM_HEAD && i-- > 0;) {
      if (entries_[i].role == v1::TENSOR_ROLE_KV_B_K) {
        owner = &entries_[i];
        break;
      }
    }
    entry.name = owner->name;
    entry.scale_name = owner->scale_name;
    entries_.push_back(entry);
    return absl::OkStatus();
  }
  entry.name = static_cast<uint32_t>(strings_.size());
  strings_.push_back(std::move(name));
  parameters_ += info.rows * info.cols;
  bytes_ += info.rows * info.cols * DTypeBytes(entry.dtype);
  if (entry.scaled) {
    entry.scale_name = static_cast<uint32_t>(strings_.size());
    strings_.push_back(TensorName(model_, role, layer, expert, true));
    bytes_ += CeilDiv(info.rows, model_.fp8_block_rows()) *
              CeilDiv(info.cols, model_.fp8_block_cols()) * 4;
  }
  entries_.push_back(entry);
  return absl::OkStatus();
}

SliceBuilder::ExtentTable SliceBuilder::ExtentsOf(const RankCoords& at) const {
  ExtentTable table;
  for (int role = 1; role < kRoles; ++role) {
    const auto id = static_cast<v1::TensorRole>(role);
    Extents& extents = table[static_cast<size_t>(role)];
    extents.weight = SliceOf(model_, layout_, at, id);
    extents.transform = InfoOf(model_, id).transform;
    if (model_.fp8_block_rows() > 0) extents.scale = ScaleSliceOf(model_, extents.weight);
  }
  return table;
}

void SliceBuilder::Emit(const Entry& entry, const Extents& extents, int64_t* offset,
                        v1::TensorSlices* s) const {
  const auto add = [&](bool is_scale, const SliceExtent& slice, v1::DType dtype,
                       v1::Transform transform) {
    const int64_t bytes = DestBytes(slice, dtype, transform);
    s->add_name(is_scale ? entry.scale_name : entry.name);
    s->add_role(entry.role);
    s->add_is_scale(is_scale);
    s->add_layer(entry.layer);
    s->add_expert(entry.expert);
    s->add_dtype(dtype);
    s->add_transform(transform);
    s->add_tensor_rows(static_cast<uint64_t>(slice.tensor_rows));
    s->add_tensor_cols(static_cast<uint64_t>(slice.tensor_cols));
    s->add_row0(static_cast<uint64_t>(slice.row0));
    s->add_rows(static_cast<uint64_t>(slice.rows));
    s->add_col0(static_cast<uint64_t>(slice.col0));
    s->add_cols(static_cast<uint64_t>(slice.cols));
    s->add_batch(static_cast<uint64_t>(slice.batch));
    s->add_batch_stride(static_cast<uint64_t>(slice.batch_stride));
    s->add_dest_offset(static_cast<uint64_t>(*offset));
    s->add_dest_bytes(static_cast<uint64_t>(bytes));
    *offset = RoundUp(*offset + bytes, kDestAlignment);
  };
  add(false, extents.weight, entry.dtype, extents.transform);
  if (entry.scaled) add(true, extents.scale, v1::DTYPE_F32, v1::TRANSFORM_COPY);
}

int64_t SliceBuilder::SliceCount(int rank) const {
  const int ep = CoordsOf(layout_, rank).ep;
  int64_t count = 0;
  for (const Entry& entry : entries_) {
    const bool expert =
        entry.role >= v1::TENSOR_ROLE_EXPERT_GATE && entry.role <= v1::TENSOR_ROLE_EXPERT_DOWN;
    if (expert && layout_.expert_to_ep(static_cast<int>(entry.expert)) != ep) continue;
    count += entry.scaled ? 2 : 1;
  }
  return count;
}

int64_t SliceBuilder::Build(int rank, v1::TensorSlices* slices) const {
  const RankCoords at = CoordsOf(layout_, rank);
  const ExtentTable table = ExtentsOf(at);
  Reserve(SliceCount(rank), slices);
  int64_t offset = 0;
  for (const Entry& entry : entries_) {
    const bool expert =
        entry.role >= v1::TENSOR_ROLE_EXPERT_GATE && entry.role <= v1::TENSOR_ROLE_EXPERT_DOWN;
    if (expert && layout_.expert_to_ep(static_cast<int>(entry.expert)) != at.ep) continue;
    Emit(entry, table[static_cast<size_t>(entry.role)], &offset, slices);
  }
  return offset;
}

}  // namespace whalepod
