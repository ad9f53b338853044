// The KV blocks of one DP group. A sequence is promised a number of blocks when it is admitted and
// gets their names as its tokens need them, so nothing that runs ever waits for memory.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace whalepod {

class BlockPool {
 public:
  explicit BlockPool(uint32_t blocks);

  // Promises `blocks` more; false, and nothing done, if fewer are neither owned nor promised.
  bool Promise(uint32_t blocks);
  // Turns one promised block into an owned one and names it.
  uint32_t Take();
  // Gives back owned blocks and what is left of the promise.
  void Release(absl::Span<const uint32_t> owned, uint32_t promised);

  uint32_t total() const { return static_cast<uint32_t>(owned_.size()); }
  uint32_t owned() const { return total() - static_cast<uint32_t>(free_.size()); }
  uint32_t promised() const { return promised_; }
  uint32_t available() const { return static_cast<uint32_t>(free_.size()) - promised_; }
  bool IsOwned(uint32_t block) const { return block < owned_.size() && owned_[block]; }

 private:
  std::vector<uint32_t> free_;  // the next one to take is the last
  std::vector<bool> owned_;
  uint32_t promised_ = 0;
};

}  // namespace whalepod
