// Gives a plan's slices their files and extents.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/plan/planner.h"
#include "proto/plan/extents.h"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

// The stored tensor of each string that some slice names; null elsewhere.
std::vector<const StoredTensor*> FindTensors(const Checkpoint& checkpoint,
                                             const v1::ShardingPlan& plan) {
  std::vector<const StoredTensor*> found(static_cast<size_t>(plan.strings_size()), nullptr);
  for (int i = 0; i < plan.strings_size(); ++i) {
    const auto it = checkpoint.tensors.find(plan.strings(i));
    if (it != checkpoint.tensors.end()) found[static_cast<size_t>(i)] = &it->second;
  }
  return found;
}

absl::Status CheckTensor(const Checkpoint& checkpoint, const std::string& name,
                         const StoredTensor* stored, const SliceExtent& slice, v1::DType dtype) {
  if (stored == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(checkpoint.dir, " has no tensor ", name, ", which the plan needs"));
  }
  const auto& shape = stored->shape;
  const bool matches =
      (shape.size() == 2 && shape[0] == slice.tensor_rows && shape[1] == slice.tensor_cols) ||
      (shape.size() == 1 && slice.tensor_rows == 1 && shape[0] == slice.tensor_cols);
  if (!matches || stored->dtype != dtype) {
    return absl::FailedPreconditionError(absl::StrCat(
        checkpoint.dir, "/", checkpoint.files[stored->file], ": tensor ", name, " is ",
        v1::DType_Name(stored->dtype), " [", absl::StrJoin(shape, ", "), "], the plan expects ",
        v1::DType_Name(dtype), " [", slice.tensor_rows, ", ", slice.tensor_cols, "]"));
  }
  return absl::OkStatus();
}

absl::Status BindRank(const Checkpoint& checkpoint, const std::vector<const StoredTensor*>& tensors,
                      int first_file, const v1::ShardingPlan& plan, v1::TensorSlices* s) {
  const int n = s->name_size();
  s->mutable_file()->Reserve(n);
  for (auto* column :
       {s->mutable_offset(), s->mutable_run(), s->mutable_stride(), s->mutable_count()}) {
    column->Reserve(n);
  }
  for (int i = 0; i < n; ++i) {
    const SliceExtent slice = StoredSlice(*s, i);
    const auto dtype = static_cast<v1::DType>(s->dtype(i));
    const StoredTensor* stored = tensors[s->name(i)];
    absl::Status status =
        CheckTensor(checkpoint, plan.strings(static_cast<int>(s->name(i))), stored, slice, dtype);
    if (!status.ok()) return status;
    const Extent extent = ExtentOf(slice, dtype, stored->offset);
    s->add_file(static_cast<uint32_t>(first_file) + stored->file);
    s->add_offset(static_cast<uint64_t>(extent.offset));
    s->add_run(static_cast<uint64_t>(extent.run));
    s->add_stride(static_cast<uint64_t>(extent.stride));
    s->add_count(static_cast<uint64_t>(extent.count));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status BindPlan(const Checkpoint& checkpoint, v1::ShardingPlan* plan) {
  if (plan->bound()) return absl::FailedPreconditionError("the plan is bound already");
  const std::vector<const StoredTensor*> tensors = FindTensors(checkpoint, *plan);
  const int first_file = plan->strings_size();
  for (v1::RankPart& part : *plan->mutable_ranks()) {
    absl::Status status = BindRank(checkpoint, tensors, first_file, *plan, part.mutable_slices());
    if (!status.ok()) return status;
  }
  for (const std::string& file : checkpoint.files) plan->add_strings(file);
  plan->set_bound(true);
  plan->set_checkpoint_dir(checkpoint.dir);
  HashPlan(plan);
  return absl::OkStatus();
}

}  // namespace whalepod
