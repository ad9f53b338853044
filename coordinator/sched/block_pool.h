// The KV blocks of one DP group. A block belongs to the sequences that read it, or to nobody; one
// that nobody needs keeps what is in it, under its key, until its memory is wanted: the prefix
// cache. Blocks that hold a whole block of known tokens are never written again, so any number of
// sequences may share them.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/sched/prefix_key.h"

namespace whalepod {

class BlockPool {
 public:
  explicit BlockPool(uint32_t blocks);

  // Blocks that hold the leading keys, up to the first that is not cached.
  std::vector<uint32_t> Find(absl::Span<const PrefixKey> keys) const;

  // Whether `count` blocks can be taken once `shared` (of Find) are.
  bool CanTake(absl::Span<const uint32_t> shared, uint32_t count) const;
  // One more owner of a block that Find named.
  void Share(uint32_t block);
  // A block of no use to anybody, or the cached one that was released first; none if all have
  // owners.
  std::optional<uint32_t> Take();
  // One owner less of each, the last block first, so that a prefix outlives what follows it.
  void Release(absl::Span<const uint32_t> blocks);

  // From now on Find finds this owned block, unless another one has the key.
  void SetKey(uint32_t block, const PrefixKey& key);

  uint32_t total() const { return static_cast<uint32_t>(blocks_.size()); }
  // With an owner.
  uint32_t owned() const { return total() - available(); }
  // Without: free or cached.
  uint32_t available() const { return static_cast<uint32_t>(free_.size() + unused_.size()); }
  // Without an owner, findable.
  uint32_t cached() const { return static_cast<uint32_t>(unused_.size()); }
  uint32_t owners(uint32_t block) const { return blocks_[block].owners; }

 private:
  struct Block {
    uint32_t owners = 0;
    bool keyed = false;
    PrefixKey key;
    std::list<uint32_t>::iterator unused;  // its place, where it has a key and no owner
  };

  std::vector<Block> blocks_;
  std::vector<uint32_t> free_;  // no key, no owner; the next one to take is the last
  std::list<uint32_t> unused_;  // a key, no owner; released first comes first
  std::unordered_map<PrefixKey, uint32_t, PrefixKeyHash> by_key_;
};

}  // namespace whalepod
