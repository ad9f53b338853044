#include "coordinator/sched/block_pool.h"

#include "base/check.h"

namespace whalepod {

BlockPool::BlockPool(uint32_t blocks) : owned_(blocks, false) {
  free_.reserve(blocks);
  for (uint32_t block = blocks; block > 0; --block) free_.push_back(block - 1);
}

bool BlockPool::Promise(uint32_t blocks) {
  if (blocks > available()) return false;
  promised_ += blocks;
  return true;
}

uint32_t BlockPool::Take() {
  CHECK_GT(promised_, 0u);
  CHECK(!free_.empty());
  const uint32_t block = free_.back();
  free_.pop_back();
  --promised_;
  owned_[block] = true;
  return block;
}

void BlockPool::Release(absl::Span<const uint32_t> owned, uint32_t promised) {
  CHECK_LE(promised, promised_);
  promised_ -= promised;
  for (const uint32_t block : owned) {
    CHECK(IsOwned(block));
    owned_[block] = false;
    free_.push_back(block);
  }
}

}  // namespace whalepod
