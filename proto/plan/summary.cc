#include "proto/plan/summary.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"

namespace whalepod {

std::vector<RankClass> RankClasses(const v1::ShardingPlan& plan) {
  std::map<std::vector<int64_t>, size_t> index;
  std::vector<RankClass> classes;
  for (const v1::RankPart& part : plan.ranks()) {
    const int rank = static_cast<int>(part.rank());
    RankClass one;
    one.slices = part.slices().name_size();
    one.experts =
        static_cast<int64_t>(ExpertsOf(plan.layout(), CoordsOf(plan.layout(), rank).ep).size());
    one.kv_blocks = KvBlocks(plan, part);
    std::vector<int64_t> key = {one.slices, one.experts, part.ledger().device_bytes()};
    for (const v1::LedgerItem& item : part.ledger().items()) {
      one.total += item.bytes();
      key.push_back(item.bytes());
    }
    const auto [it, fresh] = index.emplace(key, classes.size());
    if (fresh) classes.push_back(one);
    classes[it->second].ranks.push_back(rank);
  }
  return classes;
}

std::vector<CollectiveSum> CollectiveSums(const v1::ShardingPlan& plan) {
  std::vector<CollectiveSum> sums;
  for (const v1::RankPart& part : plan.ranks()) {
    const v1::StepSchedule& s = part.schedule();
    std::vector<CollectiveSum> own;
    for (int i = 0; i < s.op_size(); ++i) {
      const auto tag = static_cast<v1::CollectiveTag>(s.tag(i));
      auto it = std::find_if(own.begin(), own.end(),
                             [tag](const CollectiveSum& sum) { return sum.tag == tag; });
      if (it == own.end()) {
        CollectiveSum sum;
        sum.tag = tag;
        sum.op = static_cast<v1::CollectiveOp>(s.op(i));
        const absl::string_view name = plan.groups(static_cast<int>(s.group(i))).name();
        sum.group = std::string(name.substr(0, name.find_last_not_of("0123456789") + 1));
        it = own.insert(own.end(), sum);
      }
      ++it->times;
      it->bytes_per_token += static_cast<int64_t>(s.bytes_per_token(i));
      it->fixed_bytes += static_cast<int64_t>(s.fixed_bytes(i));
    }
    if (sums.empty()) sums = own;
    for (size_t i = 0; i < std::min(own.size(), sums.size()); ++i) {
      sums[i].bytes_per_token = std::max(sums[i].bytes_per_token, own[i].bytes_per_token);
      sums[i].fixed_bytes = std::max(sums[i].fixed_bytes, own[i].fixed_bytes);
    }
  }
  return sums;
}

int64_t SkippedBytes(const v1::ShardingPlan& plan) {
  int64_t bytes = 0;
  for (const v1::SkippedTensor& skipped : plan.skipped()) bytes += skipped.bytes();
  return bytes;
}

std::string RankList(const std::vector<int>& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t last = i;
    while (last + 1 < ranks.size() && ranks[last + 1] == ranks[last] + 1) ++last;
    absl::StrAppend(&text, text.empty() ? "" : ",", ranks[i]);
    if (last > i) absl::StrAppend(&text, "-", ranks[last]);
    i = last + 1;
  }
  return text;
}

std::string ShortName(const std::string& enum_name, const std::string& prefix) {
  return std::string(absl::StripPrefix(enum_name, prefix));
}

}  // namespace whalepod
