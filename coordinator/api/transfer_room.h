// The memory that large files may take on their way, all together.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"

namespace whalepod {

// Thread-safe. Outlives its shares.
class TransferRoom {
 public:
  // A part of the room, given back when the last copy goes.
  using Share = std::shared_ptr<const void>;

  // most_of_one: what one API key may have of it at a time; without keys all is everybody's.
  TransferRoom(size_t bytes, size_t most_of_one) : most_of_one_(most_of_one), left_(bytes) {}
  // For a caller with the key `tenant`, empty for none. RESOURCE_EXHAUSTED, to be tried again, if
  // too much of it is taken.
  absl::StatusOr<Share> Take(const std::string& tenant, size_t bytes);

 private:
  const size_t most_of_one_;
  std::mutex mu_;
  size_t left_;
  std::map<std::string, size_t> taken_;  // by tenant; none has 0
};

}  // namespace whalepod
