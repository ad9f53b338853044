#include "proto/plan/validate.h"

#include <algorithm>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/units.h"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"
#include "proto/plan/schedule.h"
#include "proto/plan/slices.h"
#include "proto/plan/validate_slices.h"

namespace whalepod {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 50;

// Everything of a plan that all ranks share; `ranks` is how many parts there are.
absl::Status CheckHeader(const v1::ShardingPlan& plan, int ranks) {
  if (plan.format_version() != kPlanFormatVersion) {
    return absl::InvalidArgumentError(absl::StrCat("the plan's format is ", plan.format_version(),
                                                   ", this build reads ", kPlanFormatVersion));
  }
  RETURN_IF_ERROR(CheckModel(plan.model()));
  RETURN_IF_ERROR(CheckLayout(plan.model(), plan.layout()));
  RETURN_IF_ERROR(CheckRuntime(plan.model(), plan.runtime()));
  RETURN_IF_ERROR(CheckTiling(plan.model(), plan.layout()));
  if (ranks != WorldSize(plan.layout())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the plan has ", ranks, " ranks, its layout ", WorldSize(plan.layout())));
  }
  const int64_t block =
      KvBlockBytes(plan.model(), plan.runtime(), plan.model().num_hidden_layers());
  const int64_t kv = plan.runtime().kv_bytes_per_rank();
  if (kv % block != 0 ||
      plan.runtime().max_model_len() > kv / block * plan.runtime().kv_block_tokens()) {
    return absl::InvalidArgumentError(
        absl::StrCat("runtime.kv_bytes_per_rank is ", kv, ": no whole number of blocks of ", block,
                     " bytes, or too little for max_model_len = ", plan.runtime().max_model_len()));
  }
  for (const v1::Host& host : plan.hosts()) {
    if (host.devices() < 0 || host.devices() > kMaxRanks || host.memory_bytes() < 0) {
      return absl::InvalidArgumentError(absl::StrCat("host \"", host.name(), "\" has ",
                                                     host.devices(), " devices and ",
                                                     host.memory_bytes(), " bytes of memory"));
    }
  }
  for (const v1::SkippedTensor& skipped : plan.skipped()) {
    if (skipped.name() >= static_cast<uint32_t>(plan.strings_size()) || skipped.bytes() < 0) {
      return absl::InvalidArgumentError(absl::StrCat("a skipped tensor has name ", skipped.name(),
                                                     " and ", skipped.bytes(), " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckGroups(const v1::ShardingPlan& plan) {
  const std::vector<v1::Group> expected = GroupsOf(plan.model(), plan.layout());
  if (static_cast<size_t>(plan.groups_size()) != expected.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the plan has ", plan.groups_size(), " groups, expected ", expected.size()));
  }
  for (int g = 0; g < plan.groups_size(); ++g) {
    const v1::Group& right = expected[static_cast<size_t>(g)];
    const v1::Group& found = plan.groups(g);
    if (found.name() != right.name() || !std::equal(found.ranks().begin(), found.ranks().end(),
                                                    right.ranks().begin(), right.ranks().end())) {
      return absl::InvalidArgumentError(absl::StrCat(
          "group ", g, " is \"", found.name(), "\" of ", found.ranks_size(), " ranks, expected \"",
          right.name(), "\" of ", right.ranks_size(), " ranks in order"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPosition(const v1::ShardingPlan& plan, const v1::RankPart& part, int rank) {
  if (part.rank() != static_cast<uint32_t>(rank)) {
    return absl::InvalidArgumentError(
        absl::StrCat("part ", rank, " says it is rank ", part.rank()));
  }
  if (part.host() >= static_cast<uint32_t>(plan.hosts_size()) ||
      part.device() >= static_cast<uint32_t>(plan.hosts(static_cast<int>(part.host())).devices())) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", rank, " is on device ", part.device(),
                                                   " of host ", part.host(),
                                                   ", which there is not"));
  }
  if (part.layer_begin() != 0 || part.layer_end() != plan.model().num_hidden_layers()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " has layers ", part.layer_begin(), " to ", part.layer_end(),
                     ", expected 0 to ", plan.model().num_hidden_layers()));
  }
  const std::vector<uint32_t> groups = GroupsOfRank(plan.model(), plan.layout(), rank);
  if (!std::equal(groups.begin(), groups.end(), part.groups().begin(), part.groups().end())) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, " is not in the groups of its coordinates"));
  }
  return absl::OkStatus();
}

// The five items in order, with the sizes both sides compute.
absl::Status CheckLedger(const v1::ShardingPlan& plan, const v1::RankPart& part) {
  struct Item {
    v1::LedgerKind kind;
    const char* name;
    int64_t bytes;  // -1: any
  };
  const Item expected[] = {
      {v1::LEDGER_KIND_WEIGHTS, "weights", -1},
      {v1::LEDGER_KIND_KV, "kv", plan.runtime().kv_bytes_per_rank()},
      {v1::LEDGER_KIND_ACTIVATIONS, "activations",
       ActivationBytes(plan.model(), plan.layout(), plan.runtime(), static_cast<int>(part.rank()))},
      {v1::LEDGER_KIND_COMMUNICATION, "communication", CommBytes(plan, part)},
      {v1::LEDGER_KIND_RESERVE, "reserve", -1},
  };
  const v1::Ledger& ledger = part.ledger();
  const auto rank = part.rank();
  if (ledger.items_size() != 5) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank, "'s ledger has ", ledger.items_size(), " items, expected 5"));
  }
  int64_t sum = 0;
  for (int i = 0; i < 5; ++i) {
    const v1::LedgerItem& item = ledger.items(i);
    const Item& right = expected[i];
    if (item.kind() != right.kind || item.name() != right.name || item.bytes() < 0 ||
        item.bytes() > kMaxBytes || (right.bytes >= 0 && item.bytes() != right.bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, "'s ledger has \"", item.name(), "\" ", item.bytes(),
                       " bytes, expected \"", right.name, "\"",
                       right.bytes >= 0 ? absl::StrCat(" ", right.bytes, " bytes") : ""));
    }
    sum += item.bytes();
  }
  const v1::Host& host = plan.hosts(static_cast<int>(part.host()));
  if (ledger.device_bytes() != host.memory_bytes() / std::max(1, host.devices())) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rank ", rank, "'s ledger says its device has ", ledger.device_bytes(), " bytes, host ",
        host.name(), " has ", host.memory_bytes(), " on ", host.devices(), " devices"));
  }
  if (ledger.device_bytes() > 0 && sum > ledger.device_bytes()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "rank ", rank, " needs ", sum, " bytes, its device has ", ledger.device_bytes()));
  }
  return absl::OkStatus();
}

// Position, slices and ledger of one rank.
absl::Status CheckPart(const v1::ShardingPlan& header, const v1::RankPart& part, int rank,
                       SliceChecker* slices) {
  RETURN_IF_ERROR(CheckPosition(header, part, rank));
  RETURN_IF_ERROR(CheckLedger(header, part));
  return slices->CheckRank(rank, part.slices(), part.ledger().items(0).bytes());
}

bool SameColumns(const v1::StepSchedule& a, const v1::StepSchedule& b) {
  const auto same = [](const auto& x, const auto& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  };
  return same(a.op(), b.op()) && same(a.group(), b.group()) && same(a.tag(), b.tag()) &&
         same(a.layer(), b.layer()) && same(a.bytes_per_token(), b.bytes_per_token()) &&
         same(a.fixed_bytes(), b.fixed_bytes());
}

absl::Status CheckSchedule(const v1::ShardingPlan& header, const v1::RankPart& part) {
  const int rank = static_cast<int>(part.rank());
  const v1::StepSchedule right =
      ScheduleOf(header.model(), header.layout(), header.runtime(), rank);
  if (SameColumns(part.schedule(), right)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("rank ", rank, "'s schedule of ", part.schedule().op_size(),
                   " collectives is not the forward pass's of ", right.op_size()));
}

// Members of each group call the same operations in the same order: nobody waits for a call that
// does not come.
absl::Status CheckMatching(const v1::ShardingPlan& plan) {
  using Call = std::tuple<uint32_t, uint32_t, uint32_t>;  // op, tag, layer
  std::vector<std::vector<Call>> first(static_cast<size_t>(plan.groups_size()));
  std::vector<int> first_rank(static_cast<size_t>(plan.groups_size()), -1);
  std::vector<std::vector<Call>> calls(static_cast<size_t>(plan.groups_size()));
  for (int rank = 0; rank < plan.ranks_size(); ++rank) {
    const v1::StepSchedule& s = plan.ranks(rank).schedule();
    const int n = s.op_size();
    if (s.group_size() != n || s.tag_size() != n || s.layer_size() != n) {
      return absl::InvalidArgumentError(
          absl::StrCat("rank ", rank, ": columns of its schedule differ in length"));
    }
    for (uint32_t g : plan.ranks(rank).groups()) calls[g].clear();
    for (int i = 0; i < n; ++i) {
      const auto& own = plan.ranks(rank).groups();
      if (std::find(own.begin(), own.end(), s.group(i)) == own.end()) {
        return absl::InvalidArgumentError(absl::StrCat("rank ", rank, ": collective ", i,
                                                       " is in group ", s.group(i),
                                                       ", which the rank is not in"));
      }
      calls[s.group(i)].emplace_back(s.op(i), s.tag(i), s.layer(i));
    }
    for (uint32_t g : plan.ranks(rank).groups()) {
      if (first_rank[g] < 0) {
        first_rank[g] = rank;
        first[g] = calls[g];
      } else if (first[g] != calls[g]) {
        return absl::InvalidArgumentError(absl::StrCat(
            "ranks ", first_rank[g], " and ", rank, " of group ",
            plan.groups(static_cast<int>(g)).name(), " do not call the same collectives"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDevices(const v1::ShardingPlan& plan) {
  std::set<std::pair<uint32_t, uint32_t>> taken;
  for (const v1::RankPart& part : plan.ranks()) {
    if (!taken.emplace(part.host(), part.device()).second) {
      return absl::InvalidArgumentError(absl::StrCat("rank ", part.rank(), " is on device ",
                                                     part.device(), " of host ", part.host(),
                                                     ", which has a rank"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHashes(const v1::ShardingPlan& plan) {
  std::vector<std::string> hashes;
  for (const v1::RankPart& part : plan.ranks()) {
    hashes.push_back(PartHash(part));
    if (hashes.back() != part.hash()) {
      return absl::DataLossError(absl::StrCat("rank ", part.rank(), "'s part has hash ",
                                              HexOf(hashes.back()), ", it says ",
                                              HexOf(part.hash())));
    }
  }
  const std::string root = PlanRoot(plan, hashes);
  if (root != plan.hash()) {
    return absl::DataLossError(
        absl::StrCat("the plan's root is ", HexOf(root), ", it says ", HexOf(plan.hash())));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidatePlan(const v1::ShardingPlan& plan) {
  RETURN_IF_ERROR(CheckHeader(plan, plan.ranks_size()));
  RETURN_IF_ERROR(CheckGroups(plan));
  SliceChecker slices(plan);
  RETURN_IF_ERROR(slices.Init());
  for (int rank = 0; rank < plan.ranks_size(); ++rank) {
    RETURN_IF_ERROR(CheckPart(plan, plan.ranks(rank), rank, &slices));
  }
  RETURN_IF_ERROR(slices.CheckTotals());
  RETURN_IF_ERROR(slices.CheckFiles());
  RETURN_IF_ERROR(CheckDevices(plan));
  RETURN_IF_ERROR(CheckMatching(plan));
  for (const v1::RankPart& part : plan.ranks()) RETURN_IF_ERROR(CheckSchedule(plan, part));
  return CheckHashes(plan);
}

absl::Status ValidatePlanPart(const v1::PlanPart& part) {
  RETURN_IF_ERROR(CheckPlanPart(part));
  const v1::ShardingPlan& header = part.header();
  RETURN_IF_ERROR(CheckHeader(header, part.rank_hashes_size()));
  RETURN_IF_ERROR(CheckGroups(header));
  SliceChecker slices(header);
  RETURN_IF_ERROR(slices.Init());
  RETURN_IF_ERROR(CheckPart(header, part.part(), static_cast<int>(part.part().rank()), &slices));
  RETURN_IF_ERROR(slices.CheckFiles());
  return CheckSchedule(header, part.part());
}

}  // namespace whalepod
