// What the two renderings of a plan have in common: numbers gathered over its ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Ranks that have equal ledgers, slices by number, and devices.
struct RankClass {
  std::vector<int> ranks;  // ascending
  int64_t slices = 0;
  int64_t experts = 0;  // of each layer that has some
  int64_t kv_blocks = 0;
  int64_t total = 0;  // bytes of all ledger items
};
std::vector<RankClass> RankClasses(const v1::ShardingPlan& plan);

// All collectives of one tag in a step, and the most that any rank sends for them.
struct CollectiveSum {
  v1::CollectiveTag tag = v1::COLLECTIVE_TAG_UNSPECIFIED;
  v1::CollectiveOp op = v1::COLLECTIVE_OP_UNSPECIFIED;
  std::string group;  // "world", "tp", "moe_tp"
  int64_t times = 0;
  int64_t bytes_per_token = 0;
  int64_t fixed_bytes = 0;
};
// In the order of their first call.
std::vector<CollectiveSum> CollectiveSums(const v1::ShardingPlan& plan);

int64_t SkippedBytes(const v1::ShardingPlan& plan);
// "0-3,8"
std::string RankList(const std::vector<int>& ranks);
// "ATTN_GATHER", "ALL_TO_ALL", "BF16": names without the enum's prefix.
std::string ShortName(const std::string& enum_name, const std::string& prefix);

}  // namespace whalepod
