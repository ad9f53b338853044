#include "coordinator/sched/block_pool.h"

#include <algorithm>

#include "base/check.h"

namespace whalepod {

BlockPool::BlockPool(uint32_t blocks) : blocks_(blocks) {
  free_.reserve(blocks);
  for (uint32_t block = blocks; block > 0; --block) free_.push_back(block - 1);
}

std::vector<uint32_t> BlockPool::Find(absl::Span<const PrefixKey> keys) const {
  std::vector<uint32_t> found;
  for (const PrefixKey& key : keys) {
    const auto it = by_key_.find(key);
    if (it == by_key_.end()) break;
    found.push_back(it->second);
  }
  return found;
}

bool BlockPool::CanTake(absl::Span<const uint32_t> shared, uint32_t count) const {
  const auto unused = std::count_if(shared.begin(), shared.end(),
                                    [this](uint32_t block) { return blocks_[block].owners == 0; });
  return available() >= static_cast<uint64_t>(unused) + count;
}

void BlockPool::Share(uint32_t block) {
  Block& entry = blocks_[block];
  CHECK(entry.keyed);
  if (entry.owners++ == 0) unused_.erase(entry.unused);
}

std::optional<uint32_t> BlockPool::Take() {
  uint32_t block = 0;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (!unused_.empty()) {
    block = unused_.front();
    unused_.pop_front();
    by_key_.erase(blocks_[block].key);
    blocks_[block].keyed = false;
  } else {
    return std::nullopt;
  }
  blocks_[block].owners = 1;
  return block;
}

void BlockPool::Release(absl::Span<const uint32_t> blocks) {
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    Block& entry = blocks_[*it];
    CHECK_GT(entry.owners, 0u);
    if (--entry.owners > 0) continue;
    if (entry.keyed) {
      entry.unused = unused_.insert(unused_.end(), *it);
    } else {
      free_.push_back(*it);
    }
  }
}

void BlockPool::SetKey(uint32_t block, const PrefixKey& key) {
  Block& entry = blocks_[block];
  CHECK_GT(entry.owners, 0u);
  if (entry.keyed || !by_key_.emplace(key, block).second) return;
  entry.keyed = true;
  entry.key = key;
}

}  // namespace whalepod
