#include "coordinator/plan/ledger.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "base/units.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

constexpr int64_t kCpuKvPerHost = 512 * kMiB;
constexpr int64_t kCpuReserve = 256 * kMiB;

std::string Both(int64_t bytes) {
  return absl::StrCat(FormatCount(bytes), " bytes (", FormatBytes(bytes), ")");
}

class LedgerMaker {
 public:
  LedgerMaker(const PlanRequest& request, const std::vector<int64_t>& weight_bytes,
              v1::ShardingPlan* plan)
      : request_(request), weight_bytes_(weight_bytes), plan_(*plan) {}

  absl::Status Make() {
    const bool given_len = request_.runtime.max_model_len() > 0;
    v1::RuntimeSpec& runtime = *plan_.mutable_runtime();
    if (!given_len) runtime.set_max_model_len(plan_.model().max_position_embeddings());
    const int64_t block = KvBlockBytes(plan_.model(), runtime, plan_.model().num_hidden_layers());
    ASSIGN_OR_RETURN(const int64_t kv_target, KvTarget(block));
    const int64_t blocks = kv_target / block;
    if (blocks < 1) {
      return absl::ResourceExhaustedError(absl::StrCat("KV memory of a rank is ", Both(kv_target),
                                                       "; one block of ", runtime.kv_block_tokens(),
                                                       " tokens takes ", Both(block)));
    }
    const int64_t tokens = blocks * runtime.kv_block_tokens();
    if (given_len && runtime.max_model_len() > tokens) {
      return absl::ResourceExhaustedError(
          absl::StrCat("max_model_len = ", runtime.max_model_len(), " needs ",
                       Both(CeilDiv(runtime.max_model_len(), runtime.kv_block_tokens()) * block),
                       " of KV memory on a rank; there are ", Both(blocks * block), ", enough for ",
                       tokens, " tokens"));
    }
    runtime.set_max_model_len(std::min(runtime.max_model_len(), tokens));
    runtime.set_kv_bytes_per_rank(blocks * block);
    for (int r = 0; r < plan_.ranks_size(); ++r) {
      RETURN_IF_ERROR(FillRank(blocks, block, plan_.mutable_ranks(r)));
    }
    return absl::OkStatus();
  }

 private:
  const v1::Host& HostOf(const v1::RankPart& part) const {
    return plan_.hosts(static_cast<int>(part.host()));
  }
  int64_t DeviceBytes(const v1::RankPart& part) const {
    const v1::Host& host = HostOf(part);
    return host.memory_bytes() / std::max(1, host.devices());
  }
  int64_t Weights(const v1::RankPart& part) const { return weight_bytes_[part.rank()]; }
  int64_t Activations(const v1::RankPart& part) const {
    return ActivationBytes(plan_.model(), plan_.layout(), plan_.runtime(),
                           static_cast<int>(part.rank()));
  }

  // Bytes each rank can give to KV: equal on all ranks, so that block tables are.
  absl::StatusOr<int64_t> KvTarget(int64_t block) const {
    if (request_.runtime.kv_bytes_per_rank() > 0) return request_.runtime.kv_bytes_per_rank();
    int64_t target = INT64_MAX;
    std::vector<int64_t> ranks_on(static_cast<size_t>(plan_.hosts_size()), 0);
    for (const v1::RankPart& part : plan_.ranks()) ++ranks_on[part.host()];
    for (const v1::RankPart& part : plan_.ranks()) {
      if (!request_.gpu) {
        const int64_t host =
            request_.kv_bytes_per_host > 0 ? request_.kv_bytes_per_host : kCpuKvPerHost;
        target = std::min(target, host / ranks_on[part.host()]);
        continue;
      }
      const int64_t budget = GpuBudget(part);
      const int64_t spent = Weights(part) + Activations(part) + CommBytes(plan_, part);
      if (budget - spent < block) {
        return absl::ResourceExhaustedError(
            absl::StrCat("rank ", part.rank(), " does not fit ", HostOf(part).device_name(), " on ",
                         HostOf(part).name(), ": weights ", Both(Weights(part)), ", activations ",
                         Both(Activations(part)), ", communication ", Both(CommBytes(plan_, part)),
                         " and one KV block ", Both(block), " are ", Both(spent + block), "; of ",
                         Both(DeviceBytes(part)), " it may use ", Both(budget)));
      }
      target = std::min(target, budget - spent);
    }
    return target;
  }

  int64_t GpuBudget(const v1::RankPart& part) const {
    return static_cast<int64_t>(static_cast<double>(DeviceBytes(part)) *
                                request_.gpu_memory_utilization);
  }

  int64_t Reserve(const v1::RankPart& part) const {
    if (request_.reserve_bytes > 0) return request_.reserve_bytes;
    return request_.gpu ? DeviceBytes(part) - GpuBudget(part) : kCpuReserve;
  }

  absl::Status FillRank(int64_t blocks, int64_t block, v1::RankPart* part) {
    v1::Ledger* ledger = part->mutable_ledger();
    ledger->set_device_bytes(DeviceBytes(*part));
    const auto add = [ledger](v1::LedgerKind kind, const char* name, int64_t bytes,
                              std::string formula) {
      v1::LedgerItem* item = ledger->add_items();
      item->set_kind(kind);
      item->set_name(name);
      item->set_bytes(bytes);
      item->set_formula(std::move(formula));
    };
    const v1::RuntimeSpec& runtime = plan_.runtime();
    add(v1::LEDGER_KIND_WEIGHTS, "weights", Weights(*part),
        absl::StrCat(part->slices().name_size(), " slices, packed, 64-byte aligned"));
    add(v1::LEDGER_KIND_KV, "kv", blocks * block,
        absl::StrCat(blocks, " blocks x ", block, " B (", runtime.kv_block_tokens(), " tokens x ",
                     plan_.model().kv_lora_rank() + plan_.model().qk_rope_head_dim(), " x ",
                     DTypeBytes(runtime.compute_dtype()), " B x ",
                     plan_.model().num_hidden_layers(), " layers)"));
    add(v1::LEDGER_KIND_ACTIVATIONS, "activations", Activations(*part),
        absl::StrCat("buffers of ", runtime.max_num_batched_tokens(), " tokens in each of ",
                     plan_.layout().dp(), " DP groups, ", runtime.max_num_seqs(),
                     " sampled rows, context ", runtime.max_model_len()));
    add(v1::LEDGER_KIND_COMMUNICATION, "communication", CommBytes(plan_, *part),
        absl::StrCat(request_.gpu ? "2 x the largest contribution in each of "
                                  : "share of shared memory, or Gloo's buffers, in each of ",
                     part->groups_size(), " groups"));
    add(v1::LEDGER_KIND_RESERVE, "reserve", Reserve(*part),
        request_.gpu ? "memory beyond gpu_memory_utilization" : "code, heap, buffers of libraries");
    return CheckFits(*part);
  }

  absl::Status CheckFits(const v1::RankPart& part) const {
    const v1::Ledger& ledger = part.ledger();
    int64_t sum = 0;
    for (const v1::LedgerItem& item : ledger.items()) sum += item.bytes();
    if (ledger.device_bytes() == 0 || sum <= ledger.device_bytes()) return absl::OkStatus();
    std::vector<const v1::LedgerItem*> items;
    for (const v1::LedgerItem& item : ledger.items()) items.push_back(&item);
    std::sort(items.begin(), items.end(), [](const v1::LedgerItem* a, const v1::LedgerItem* b) {
      return a->bytes() > b->bytes();
    });
    items.resize(3);
    return absl::ResourceExhaustedError(absl::StrCat(
        "rank ", part.rank(), " does not fit on ", HostOf(part).name(), ": it needs ", Both(sum),
        ", its share of the memory is ", Both(ledger.device_bytes()), "; the largest items: ",
        absl::StrJoin(items, ", ", [](std::string* out, const v1::LedgerItem* item) {
          absl::StrAppend(out, item->name(), " ", FormatBytes(item->bytes()));
        })));
  }

  const PlanRequest& request_;
  const std::vector<int64_t>& weight_bytes_;
  v1::ShardingPlan& plan_;
};

}  // namespace

absl::Status FillLedgers(const PlanRequest& request, const std::vector<int64_t>& weight_bytes,
                         v1::ShardingPlan* plan) {
  return LedgerMaker(request, weight_bytes, plan).Make();
}

}  // namespace whalepod
