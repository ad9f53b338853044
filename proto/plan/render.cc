#include "proto/plan/render.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/units.h"
#include "proto/plan/hash.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"
#include "proto/plan/summary.h"

namespace whalepod {
namespace {

std::string Both(int64_t bytes) {
  return absl::StrCat(FormatCount(bytes), " bytes (", FormatBytes(bytes), ")");
}

std::string Quantisation(const v1::ShardingPlan& plan) {
  if (plan.model().fp8_block_rows() == 0) return "no FP8 weights";
  const bool w8a8 = plan.runtime().activation_quant() == v1::ACTIVATION_QUANT_FP8;
  return absl::StrCat(w8a8 ? "W8A8" : "W8A16", ", FP8 blocks of ", plan.model().fp8_block_rows(),
                      " x ", plan.model().fp8_block_cols());
}

void AppendHead(const v1::ShardingPlan& plan, std::string* out) {
  absl::StrAppend(out, "Plan of ", plan.model().name().empty() ? "model" : plan.model().name(),
                  plan.bound() ? absl::StrCat(", bound to ", plan.checkpoint_dir()) : ", unbound",
                  "\n  hash       ", HexOf(plan.hash()), "\n");
  absl::StrAppend(out, "Model\n  main       ", FormatCount(plan.total_parameters()),
                  " parameters in ", FormatCount(plan.total_tensors()), " tensors, ",
                  Both(plan.total_bytes()), "\n");
  if (plan.skipped_size() > 0) {
    absl::StrAppend(out, "  all        ", FormatCount(plan.total_tensors() + plan.skipped_size()),
                    " tensors, ", Both(plan.total_bytes() + SkippedBytes(plan)), "\n");
  }
  absl::StrAppend(out, "  layers     ", DenseLayers(plan.model()), " dense, ",
                  MoeLayers(plan.model()), " with ", plan.model().n_routed_experts(), " experts\n");
}

void AppendLayout(const v1::ShardingPlan& plan, std::string* out) {
  const v1::Layout& l = plan.layout();
  absl::StrAppend(out, "Layout\n  ranks      ", WorldSize(l), " = dp ", l.dp(), " x tp ", l.tp(),
                  " = ep ", l.ep(), " x moe_tp ", l.moe_tp(), "\n");
  // Runs of hosts of one kind.
  for (int i = 0; i < plan.hosts_size();) {
    int last = i;
    const v1::Host& host = plan.hosts(i);
    while (last + 1 < plan.hosts_size() &&
           plan.hosts(last + 1).device_name() == host.device_name() &&
           plan.hosts(last + 1).devices() == host.devices() &&
           plan.hosts(last + 1).memory_bytes() == host.memory_bytes()) {
      ++last;
    }
    absl::StrAppend(out, "  hosts      ", host.name());
    if (last > i) absl::StrAppend(out, " to ", plan.hosts(last).name());
    absl::StrAppend(out, ": ", host.devices(), " x ", host.device_name());
    if (host.memory_bytes() > 0) {
      absl::StrAppend(out, ", ", FormatBytes(host.memory_bytes()), last > i ? " each" : "");
    }
    absl::StrAppend(out, "\n");
    i = last + 1;
  }
  const v1::RuntimeSpec& r = plan.runtime();
  absl::StrAppend(out, "  runtime    ", ShortName(v1::DType_Name(r.compute_dtype()), "DTYPE_"),
                  ", ", Quantisation(plan), "\n  limits     context ",
                  FormatCount(r.max_model_len()), ", ", FormatCount(r.max_num_seqs()),
                  " sequences and ", FormatCount(r.max_num_batched_tokens()),
                  " tokens a step in each DP group, ", r.threads_per_rank(),
                  r.threads_per_rank() == 1 ? " thread" : " threads", " a rank\n");
  if (plan.ranks_size() == 0) return;
  const int64_t tokens = KvBlocks(plan, plan.ranks(0)) * r.kv_block_tokens();
  absl::StrAppend(out, "  KV         ", FormatCount(tokens), " tokens in each DP group, ",
                  FormatCount(tokens * l.dp()), " in all\n");
}

std::vector<const v1::LedgerItem*> ItemsOf(const v1::RankPart& part) {
  std::vector<const v1::LedgerItem*> items;
  for (const v1::LedgerItem& item : part.ledger().items()) items.push_back(&item);
  return items;
}

void AppendRanks(const v1::ShardingPlan& plan, std::string* out) {
  absl::StrAppend(out, "Memory of a rank (equal ranks on one line)\n");
  absl::StrAppendFormat(out, "  %7s %7s %13s %13s %13s %13s %13s %13s %13s  %s\n", "experts",
                        "slices", "weights", "kv", "activations", "communication", "reserve",
                        "total", "device", "ranks");
  for (const RankClass& one : RankClasses(plan)) {
    const v1::RankPart& part = plan.ranks(one.ranks.front());
    absl::StrAppendFormat(out, "  %7d %7d", one.experts, one.slices);
    for (const v1::LedgerItem* item : ItemsOf(part)) {
      absl::StrAppendFormat(out, " %13s", FormatBytes(item->bytes()));
    }
    const int64_t device = part.ledger().device_bytes();
    absl::StrAppendFormat(out, " %13s %13s  %s\n", FormatBytes(one.total),
                          device > 0 ? FormatBytes(device) : "unknown", RankList(one.ranks));
  }
  if (plan.ranks_size() == 0) return;
  absl::StrAppend(out, "Ledger of rank 0\n");
  for (const v1::LedgerItem* item : ItemsOf(plan.ranks(0))) {
    absl::StrAppendFormat(out, "  %-14s %20s  %s\n", item->name(), FormatCount(item->bytes()),
                          item->formula());
  }
}

void AppendCollectives(const v1::ShardingPlan& plan, std::string* out) {
  const std::vector<CollectiveSum> sums = CollectiveSums(plan);
  if (sums.empty()) {
    absl::StrAppend(out, "Collectives of a step: none\n");
    return;
  }
  absl::StrAppend(out,
                  "Collectives of a step (the most that a rank sends to all others: bytes with one "
                  "token in every DP group; bytes for each sampling sequence)\n");
  absl::StrAppendFormat(out, "  %-15s %-11s %-7s %6s %18s %18s\n", "tag", "op", "group", "times",
                        "bytes a token", "bytes a sample");
  int64_t per_token = 0;
  for (const CollectiveSum& sum : sums) {
    per_token += sum.bytes_per_token;
    absl::StrAppendFormat(out, "  %-15s %-11s %-7s %6d %18s %18s\n",
                          ShortName(v1::CollectiveTag_Name(sum.tag), "COLLECTIVE_TAG_"),
                          ShortName(v1::CollectiveOp_Name(sum.op), "COLLECTIVE_OP_"), sum.group,
                          sum.times, FormatCount(sum.bytes_per_token),
                          FormatCount(sum.fixed_bytes));
  }
  absl::StrAppendFormat(out, "  %-15s %-11s %-7s %6s %18s\n", "all", "", "", "",
                        FormatCount(per_token));
}

void AppendSkipped(const v1::ShardingPlan& plan, std::string* out) {
  if (plan.skipped_size() == 0) return;
  absl::StrAppend(out, "Skipped: ", FormatCount(plan.skipped_size()), " tensors, ",
                  Both(SkippedBytes(plan)), "\n");
  constexpr int kShown = 3;
  for (int i = 0; i < plan.skipped_size(); ++i) {
    if (i == kShown && plan.skipped_size() > kShown + 2) {
      absl::StrAppend(out, "  .. ", plan.skipped_size() - kShown - 1, " more ..\n");
      i = plan.skipped_size() - 1;
    }
    const v1::SkippedTensor& skipped = plan.skipped(i);
    absl::StrAppend(out, "  ", plan.strings(static_cast<int>(skipped.name())), " (",
                    skipped.reason(), ")\n");
  }
}

}  // namespace

std::string RenderPlanText(const v1::ShardingPlan& plan) {
  std::string out;
  AppendHead(plan, &out);
  AppendLayout(plan, &out);
  AppendRanks(plan, &out);
  AppendCollectives(plan, &out);
  AppendSkipped(plan, &out);
  return out;
}

}  // namespace whalepod
