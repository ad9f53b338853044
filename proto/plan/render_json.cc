#include "nlohmann/json.hpp"
#include "proto/plan/hash.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"
#include "proto/plan/render.h"
#include "proto/plan/summary.h"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;

Json ModelJson(const v1::ShardingPlan& plan) {
  const v1::ModelSpec& m = plan.model();
  return Json{{"name", m.name()},
              {"model_type", m.model_type()},
              {"parameters", plan.total_parameters()},
              {"tensors", plan.total_tensors()},
              {"bytes", plan.total_bytes()},
              {"all_tensors", plan.total_tensors() + plan.skipped_size()},
              {"all_bytes", plan.total_bytes() + SkippedBytes(plan)},
              {"dense_layers", DenseLayers(m)},
              {"moe_layers", MoeLayers(m)},
              {"routed_experts", m.n_routed_experts()}};
}

Json LayoutJson(const v1::Layout& l) {
  return Json{{"replicas", l.replicas()},
              {"pp", l.pp()},
              {"dp", l.dp()},
              {"tp", l.tp()},
              {"ep", l.ep()},
              {"moe_tp", l.moe_tp()},
              {"world", WorldSize(l)},
              {"expert_to_ep", std::vector<int>(l.expert_to_ep().begin(), l.expert_to_ep().end())}};
}

Json RuntimeJson(const v1::RuntimeSpec& r) {
  return Json{{"compute_dtype", ShortName(v1::DType_Name(r.compute_dtype()), "DTYPE_")},
              {"activation_quant",
               ShortName(v1::ActivationQuant_Name(r.activation_quant()), "ACTIVATION_QUANT_")},
              {"max_model_len", r.max_model_len()},
              {"max_num_seqs", r.max_num_seqs()},
              {"max_num_batched_tokens", r.max_num_batched_tokens()},
              {"kv_block_tokens", r.kv_block_tokens()},
              {"kv_bytes_per_rank", r.kv_bytes_per_rank()},
              {"threads_per_rank", r.threads_per_rank()}};
}

Json RankJson(const v1::ShardingPlan& plan, const v1::RankPart& part) {
  const RankCoords at = CoordsOf(plan.layout(), static_cast<int>(part.rank()));
  Json ledger = Json::object();
  Json formulas = Json::object();
  int64_t total = 0;
  for (const v1::LedgerItem& item : part.ledger().items()) {
    ledger[item.name()] = item.bytes();
    formulas[item.name()] = item.formula();
    total += item.bytes();
  }
  ledger["total"] = total;
  ledger["device"] = part.ledger().device_bytes();
  return Json{{"rank", part.rank()},
              {"host", plan.hosts(static_cast<int>(part.host())).name()},
              {"device", part.device()},
              {"dp", at.dp},
              {"tp", at.tp},
              {"ep", at.ep},
              {"moe_tp", at.moe_tp},
              {"layers", Json::array({part.layer_begin(), part.layer_end()})},
              {"experts", ExpertsOf(plan.layout(), at.ep).size()},
              {"slices", part.slices().name_size()},
              {"kv_blocks", KvBlocks(plan, part)},
              {"ledger", ledger},
              {"formulas", formulas},
              {"hash", HexOf(part.hash())}};
}

}  // namespace

std::string RenderPlanJson(const v1::ShardingPlan& plan) {
  Json hosts = Json::array(), groups = Json::array(), ranks = Json::array();
  for (const v1::Host& host : plan.hosts()) {
    hosts.push_back(Json{{"name", host.name()},
                         {"device", host.device_name()},
                         {"devices", host.devices()},
                         {"memory_bytes", host.memory_bytes()}});
  }
  for (const v1::Group& group : plan.groups()) {
    groups.push_back(
        Json{{"name", group.name()},
             {"ranks", std::vector<uint32_t>(group.ranks().begin(), group.ranks().end())}});
  }
  for (const v1::RankPart& part : plan.ranks()) ranks.push_back(RankJson(plan, part));
  Json collectives = Json::array();
  for (const CollectiveSum& sum : CollectiveSums(plan)) {
    collectives.push_back(
        Json{{"tag", ShortName(v1::CollectiveTag_Name(sum.tag), "COLLECTIVE_TAG_")},
             {"op", ShortName(v1::CollectiveOp_Name(sum.op), "COLLECTIVE_OP_")},
             {"group", sum.group},
             {"times", sum.times},
             {"bytes_per_token", sum.bytes_per_token},
             {"bytes_per_sample", sum.fixed_bytes}});
  }
  Json skipped = Json::array();
  for (const v1::SkippedTensor& tensor : plan.skipped()) {
    skipped.push_back(Json{{"name", plan.strings(static_cast<int>(tensor.name()))},
                           {"bytes", tensor.bytes()},
                           {"reason", tensor.reason()}});
  }
  const Json json{{"format_version", plan.format_version()},
                  {"hash", HexOf(plan.hash())},
                  {"bound", plan.bound()},
                  {"checkpoint_dir", plan.checkpoint_dir()},
                  {"model", ModelJson(plan)},
                  {"layout", LayoutJson(plan.layout())},
                  {"runtime", RuntimeJson(plan.runtime())},
                  {"hosts", hosts},
                  {"groups", groups},
                  {"ranks", ranks},
                  {"collectives", collectives},
                  {"skipped", skipped}};
  // Names come from files: bytes that are not UTF-8 are replaced.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace whalepod
