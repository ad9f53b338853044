#include "coordinator/plan/planner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/plan/builder.h"
#include "coordinator/plan/ledger.h"
#include "coordinator/plan/skipped.h"
#include "proto/plan/hash.h"
#include "proto/plan/schedule.h"
#include "proto/plan/validate.h"

namespace whalepod {
namespace {

// Experts in ascending ranges of almost equal size: for a power of two of groups that divides the
// number of experts, each range is a subtree of the reduction tree.
void FillExpertTable(const v1::ModelSpec& model, v1::Layout* layout) {
  if (MoeLayers(model) == 0) return;
  for (int ep = 0; ep < layout->ep(); ++ep) {
    const Range range = EvenPart(model.n_routed_experts(), layout->ep(), ep);
    for (int64_t e = range.begin; e < range.end; ++e) layout->add_expert_to_ep(ep);
  }
}

absl::StatusOr<v1::Layout> MakeLayout(const PlanRequest& request) {
  v1::Layout layout;
  layout.set_replicas(request.replicas);
  layout.set_pp(request.pp);
  layout.set_dp(request.dp);
  layout.set_tp(request.tp);
  for (const int degree : {request.replicas, request.pp, request.dp, request.tp}) {
    if (degree < 1 || degree > kMaxRanks) {
      return absl::InvalidArgumentError(
          absl::StrCat("replicas, pp, dp, tp = ", request.replicas, ", ", request.pp, ", ",
                       request.dp, ", ", request.tp, ": each must be 1 to ", kMaxRanks));
    }
  }
  const int64_t world = int64_t{request.dp} * request.tp;
  int64_t ep = request.ep;
  int64_t moe_tp = request.moe_tp;
  if (ep <= 0) ep = moe_tp > 0 ? std::max<int64_t>(1, world / moe_tp) : 1;
  if (moe_tp <= 0) moe_tp = std::max<int64_t>(1, world / ep);
  if (ep > kMaxRanks || moe_tp > kMaxRanks) {
    return absl::InvalidArgumentError(
        absl::StrCat("ep = ", ep, ", moe_tp = ", moe_tp, ": each must be 1 to ", kMaxRanks));
  }
  layout.set_ep(static_cast<int32_t>(ep));
  layout.set_moe_tp(static_cast<int32_t>(moe_tp));
  FillExpertTable(request.model, &layout);
  RETURN_IF_ERROR(CheckLayout(request.model, layout));
  return layout;
}

constexpr int64_t kPrefillChunk = 512;

bool StoredAsFloat32(const Checkpoint* checkpoint) {
  if (checkpoint == nullptr) return false;
  const auto embed = checkpoint->tensors.find("model.embed_tokens.weight");
  return embed != checkpoint->tensors.end() && embed->second.dtype == v1::DTYPE_F32;
}

v1::RuntimeSpec MakeRuntime(const PlanRequest& request) {
  v1::RuntimeSpec runtime = request.runtime;
  if (runtime.compute_dtype() == v1::DTYPE_UNSPECIFIED) {
    runtime.set_compute_dtype(StoredAsFloat32(request.checkpoint) ? v1::DTYPE_F32 : v1::DTYPE_BF16);
  }
  if (runtime.activation_quant() == v1::ACTIVATION_QUANT_UNSPECIFIED) {
    runtime.set_activation_quant(v1::ACTIVATION_QUANT_NONE);
  }
  if (runtime.max_num_seqs() == 0) runtime.set_max_num_seqs(request.gpu ? 256 : 16);
  if (runtime.max_num_batched_tokens() == 0) {
    runtime.set_max_num_batched_tokens(request.gpu ? 2048 : kPrefillChunk + runtime.max_num_seqs());
  }
  if (runtime.kv_block_tokens() == 0) runtime.set_kv_block_tokens(64);
  if (runtime.threads_per_rank() == 0) {
    const int64_t hosts = std::max<int64_t>(1, std::ssize(request.hosts));
    const int64_t ranks = (int64_t{request.dp} * request.tp + hosts - 1) / hosts;
    runtime.set_threads_per_rank(
        std::max<int64_t>(1, request.processors_per_host / std::max<int64_t>(1, ranks)));
  }
  return runtime;
}

// What is given must be in range before the memory model computes with it.
absl::Status CheckGiven(const v1::ModelSpec& model, v1::RuntimeSpec runtime) {
  if (runtime.max_model_len() == 0) runtime.set_max_model_len(1);
  if (runtime.kv_bytes_per_rank() == 0) runtime.set_kv_bytes_per_rank(1);
  return CheckRuntime(model, runtime);
}

absl::Status PlaceRanks(const PlanRequest& request, int world, v1::ShardingPlan* plan) {
  if (request.hosts.empty()) {
    v1::Host* host = plan->add_hosts();
    host->set_name("localhost");
    host->set_device_name("cpu");
    host->set_devices(world);
  }
  for (const v1::Host& host : request.hosts) *plan->add_hosts() = host;
  int64_t devices = 0;
  for (const v1::Host& host : plan->hosts()) devices += host.devices();
  if (devices < world) {
    return absl::InvalidArgumentError(
        absl::StrCat("the layout has ", world, " ranks, the hosts ", "have ", devices, " devices"));
  }
  uint32_t host = 0, device = 0;
  for (int r = 0; r < world; ++r) {
    while (device >= static_cast<uint32_t>(plan->hosts(static_cast<int>(host)).devices())) {
      ++host;
      device = 0;
    }
    v1::RankPart* part = plan->add_ranks();
    part->set_rank(static_cast<uint32_t>(r));
    part->set_host(host);
    part->set_device(device++);
    part->set_layer_begin(0);
    part->set_layer_end(plan->model().num_hidden_layers());
  }
  return absl::OkStatus();
}

// A plan of more slices than this would not fit a coordinator's memory comfortably.
constexpr int64_t kMaxSlices = 16'000'000;

absl::Status FillSlices(const SliceBuilder& builder, v1::ShardingPlan* plan,
                        std::vector<int64_t>* weight_bytes) {
  int64_t slices = 0;
  for (int r = 0; r < plan->ranks_size(); ++r) slices += builder.SliceCount(r);
  if (slices > kMaxSlices) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the plan would have ", slices, " slices, at most ", kMaxSlices,
                     " are handled; a larger ep gives each rank fewer experts"));
  }
  for (int r = 0; r < plan->ranks_size(); ++r) {
    weight_bytes->push_back(builder.Build(r, plan->mutable_ranks(r)->mutable_slices()));
  }
  return absl::OkStatus();
}

void FillGroups(v1::ShardingPlan* plan) {
  for (v1::Group& group : GroupsOf(plan->model(), plan->layout())) {
    *plan->add_groups() = std::move(group);
  }
  for (v1::RankPart& part : *plan->mutable_ranks()) {
    const int rank = static_cast<int>(part.rank());
    for (uint32_t group : GroupsOfRank(plan->model(), plan->layout(), rank)) {
      part.add_groups(group);
    }
    *part.mutable_schedule() = ScheduleOf(plan->model(), plan->layout(), plan->runtime(), rank);
  }
}

}  // namespace

absl::StatusOr<v1::ShardingPlan> MakePlan(const PlanRequest& request) {
  RETURN_IF_ERROR(CheckModel(request.model));
  ASSIGN_OR_RETURN(const v1::Layout layout, MakeLayout(request));
  v1::ShardingPlan plan;
  plan.set_format_version(kPlanFormatVersion);
  *plan.mutable_model() = request.model;
  *plan.mutable_layout() = layout;
  *plan.mutable_runtime() = MakeRuntime(request);
  RETURN_IF_ERROR(CheckGiven(plan.model(), plan.runtime()));
  RETURN_IF_ERROR(PlaceRanks(request, WorldSize(layout), &plan));
  ASSIGN_OR_RETURN(const SliceBuilder builder,
                   SliceBuilder::Create(plan.model(), plan.layout(), request.checkpoint));
  for (const std::string& name : builder.strings()) plan.add_strings(name);
  plan.set_total_parameters(builder.total_parameters());
  plan.set_total_tensors(builder.total_tensors());
  plan.set_total_bytes(builder.total_bytes());
  std::vector<int64_t> weight_bytes;
  RETURN_IF_ERROR(FillSlices(builder, &plan, &weight_bytes));
  AddSkipped(request.checkpoint, &plan);
  FillGroups(&plan);
  RETURN_IF_ERROR(FillLedgers(request, weight_bytes, &plan));
  HashPlan(&plan);
  return plan;
}

std::string LayoutName(const v1::Layout& layout) {
  return absl::StrCat("dp", layout.dp(), " tp", layout.tp(), " ep", layout.ep(), " moe_tp",
                      layout.moe_tp());
}

}  // namespace whalepod
