#include "worker/model/expert_slots.h"

namespace whalepod {

ExpertSlots::ExpertSlots(absl::Span<const int> local_experts, int64_t experts)
    : local_(experts, -1), local_count_(static_cast<int64_t>(local_experts.size())) {
  for (size_t i = 0; i < local_experts.size(); ++i) {
    local_[local_experts[i]] = static_cast<int32_t>(i);
  }
}

int64_t ExpertSlots::LocalOf(const int32_t* ids, int64_t top_k) const {
  int64_t count = 0;
  for (int64_t j = 0; j < top_k; ++j) count += local_[ids[j]] >= 0;
  return count;
}

void ExpertSlots::Assign(int64_t tokens, int64_t top_k, const int32_t* ids, int64_t max_slots,
                         int32_t* slots, int32_t* row_index) {
  chunks_.clear();
  total_ = 0;
  for (int64_t token = 0; token < tokens;) {
    ExpertChunk chunk{.token0 = token, .slot0 = total_};
    for (; token < tokens; ++token) {
      const int64_t more = LocalOf(ids + token * top_k, top_k);
      if (chunk.tokens > 0 && chunk.slots + more > max_slots) break;
      chunk.slots += more;
      ++chunk.tokens;
    }
    AssignChunk(top_k, ids, slots, row_index, chunk);
    total_ += chunk.slots;
    chunks_.push_back(std::move(chunk));
  }
}

void ExpertSlots::AssignChunk(int64_t top_k, const int32_t* ids, int32_t* slots, int32_t* row_index,
                              ExpertChunk& chunk) const {
  const int64_t begin = chunk.token0 * top_k;
  const int64_t end = begin + chunk.tokens * top_k;
  chunk.offsets.assign(local_count_ + 1, 0);
  for (int64_t i = begin; i < end; ++i) {
    if (const int32_t expert = local_[ids[i]]; expert >= 0) ++chunk.offsets[expert + 1];
  }
  for (int64_t e = 0; e < local_count_; ++e) chunk.offsets[e + 1] += chunk.offsets[e];
  std::vector<int32_t> next(chunk.offsets.begin(), chunk.offsets.end() - 1);
  for (int64_t i = begin; i < end; ++i) {
    const int32_t expert = local_[ids[i]];
    slots[i] = expert < 0 ? -1 : next[expert]++;
    if (slots[i] >= 0) row_index[chunk.slot0 + slots[i]] = static_cast<int32_t>(i / top_k);
  }
}

}  // namespace whalepod
