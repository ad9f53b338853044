#include "tests/coordinator/plan/broken_plans.h"

#include <random>

#include "base/check.h"
#include "coordinator/plan/planner.h"
#include "proto/plan/slices.h"
#include "tests/coordinator/plan/fake_checkpoint.h"

namespace whalepod {
namespace {

v1::ModelSpec SmallModel() {
  std::mt19937_64 random(3);
  v1::ModelSpec m = RandomModel(random);
  m.set_num_hidden_layers(2);
  m.set_hidden_size(32);
  m.set_first_k_dense_replace(1);
  m.set_moe_layer_freq(1);
  m.set_intermediate_size(128);
  m.set_moe_intermediate_size(128);
  m.set_num_attention_heads(4);
  m.set_q_lora_rank(24);
  m.set_n_routed_experts(4);
  m.set_n_shared_experts(1);
  m.set_num_experts_per_tok(2);
  m.set_fp8_block_rows(20);
  m.set_fp8_block_cols(24);
  return m;
}

// The slice of `rank` that has the weights of `role` in `layer`, the first if there are more.
int SliceAt(const v1::ShardingPlan& plan, int rank, v1::TensorRole role, uint32_t layer) {
  const v1::TensorSlices& s = plan.ranks(rank).slices();
  for (int i = 0; i < s.name_size(); ++i) {
    if (s.role(i) == static_cast<uint32_t>(role) && s.layer(i) == layer && s.is_scale(i) == 0) {
      return i;
    }
  }
  CHECK(false && "every rank has every role that is asked for");
  return -1;
}

void GiveTooLittleMemory(v1::ShardingPlan* plan) {
  for (v1::Host& host : *plan->mutable_hosts()) host.set_memory_bytes(host.devices());
  for (v1::RankPart& part : *plan->mutable_ranks()) part.mutable_ledger()->set_device_bytes(1);
}

// The second norm of layer 0 begins where the first one does, for all ranks.
void ShareBytes(v1::ShardingPlan* plan) {
  for (int rank = 0; rank < plan->ranks_size(); ++rank) {
    const int from = SliceAt(*plan, rank, v1::TENSOR_ROLE_INPUT_NORM, 0);
    const int to = SliceAt(*plan, rank, v1::TENSOR_ROLE_POST_NORM, 0);
    v1::TensorSlices* s = plan->mutable_ranks(rank)->mutable_slices();
    s->set_file(to, s->file(from));
    s->set_offset(to, s->offset(from));
  }
}

std::vector<BrokenPlan> BrokenSlices() {
  // Every rank has the whole of a norm, in F32.
  const auto norm = [](v1::ShardingPlan* plan, int rank,
                       const std::function<void(v1::TensorSlices*, int)>& change) {
    const int i = SliceAt(*plan, rank, v1::TENSOR_ROLE_POST_NORM, 1);
    change(plan->mutable_ranks(rank)->mutable_slices(), i);
  };
  return {
      {"has transform",
       [norm](v1::ShardingPlan* plan) {
         norm(plan, 0, [](v1::TensorSlices* s, int i) { s->set_transform(i, 99); });
       }},
      {"another rank has it as",
       [norm](v1::ShardingPlan* plan) {
         norm(plan, 1, [](v1::TensorSlices* s, int i) { s->set_dtype(i, v1::DTYPE_BF16); });
       }},
      {"is not plausible",
       [norm](v1::ShardingPlan* plan) {
         norm(plan, 0, [](v1::TensorSlices* s, int i) { s->set_offset(i, uint64_t{1} << 62); });
       }},
      {"for another slice at",
       [norm](v1::ShardingPlan* plan) {
         norm(plan, 1, [](v1::TensorSlices* s, int i) { s->set_offset(i, s->offset(i) + 4); });
       }},
      {"share bytes of", ShareBytes},
      {"names no file",
       [](v1::ShardingPlan* plan) {
         const uint32_t file = plan->ranks(0).slices().file(0);
         plan->set_strings(static_cast<int>(file), "../" + plan->strings(static_cast<int>(file)));
       }},
  };
}

std::vector<BrokenPlan> BrokenSchedules() {
  return {
      {"columns of its schedule differ in length",
       [](v1::ShardingPlan* plan) { plan->mutable_ranks(1)->mutable_schedule()->add_tag(1); }},
      {"which the rank is not in",
       [](v1::ShardingPlan* plan) {
         plan->mutable_ranks(0)->mutable_schedule()->set_group(0, UINT32_MAX);
       }},
      {"do not call the same collectives",
       [](v1::ShardingPlan* plan) {
         plan->mutable_ranks(3)->mutable_schedule()->set_layer(0, 77);
       }},
      {"is not the forward pass's",
       [](v1::ShardingPlan* plan) {
         for (v1::RankPart& part : *plan->mutable_ranks()) {
           part.mutable_schedule()->set_fixed_bytes(0, part.schedule().fixed_bytes(0) + 1);
         }
       }},
  };
}

std::vector<BrokenPlan> BrokenHeaders() {
  return {
      {"its device has 1", GiveTooLittleMemory},
      {"which has a rank",
       [](v1::ShardingPlan* plan) {
         plan->mutable_ranks(1)->set_host(plan->ranks(0).host());
         plan->mutable_ranks(1)->set_device(plan->ranks(0).device());
       }},
      {"ep = 4 cannot split 2 experts: at most 2",
       [](v1::ShardingPlan* plan) {
         plan->mutable_model()->set_n_routed_experts(2);
         plan->mutable_layout()->set_ep(4);
         plan->mutable_layout()->set_moe_tp(1);
         plan->mutable_layout()->mutable_expert_to_ep()->Truncate(2);
       }},
      {"with YaRN expected above 1",
       [](v1::ShardingPlan* plan) {
         plan->mutable_model()->mutable_yarn()->set_factor(40);
         plan->mutable_model()->set_rope_theta(1);
       }},
      {"at most 16384",
       [](v1::ShardingPlan* plan) {
         for (const auto set : {&v1::Layout::set_dp, &v1::Layout::set_ep}) {
           (plan->mutable_layout()->*set)(kMaxRanks);
         }
       }},
      {"has hash",
       [](v1::ShardingPlan* plan) { plan->mutable_ranks(2)->mutable_hash()->append("x"); }},
      {"the plan's root is", [](v1::ShardingPlan* plan) { plan->mutable_hash()->append("x"); }},
  };
}

}  // namespace

v1::ShardingPlan SmallPlan(bool bound) {
  const v1::ModelSpec model = SmallModel();
  const Checkpoint checkpoint = FakeCheckpoint(model);
  PlanRequest request;
  request.model = model;
  request.checkpoint = &checkpoint;
  request.dp = 2;
  request.tp = 2;
  request.ep = 2;
  auto plan = MakePlan(request);
  CHECK_OK(plan.status());
  if (bound) CHECK_OK(BindPlan(checkpoint, &*plan));
  return *std::move(plan);
}

std::vector<BrokenPlan> BrokenPlans() {
  std::vector<BrokenPlan> all = BrokenHeaders();
  for (const auto& more : {BrokenSlices(), BrokenSchedules()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

}  // namespace whalepod
