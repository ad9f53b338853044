// The memory that large files may take on their way, all together.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>

#include "absl/status/statusor.h"

namespace whalepod {

// Thread-safe. Outlives its shares.
class TransferRoom {
 public:
  // A part of the room, given back when the last copy goes.
  using Share = std::shared_ptr<const void>;

  explicit TransferRoom(size_t bytes) : left_(bytes) {}
  // RESOURCE_EXHAUSTED, to be tried again, if others have too much of it.
  absl::StatusOr<Share> Take(size_t bytes);

 private:
  std::mutex mu_;
  size_t left_;
};

}  // namespace whalepod
