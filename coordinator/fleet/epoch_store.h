// The epoch number that fences deployments: persisted, and larger each time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"

namespace whalepod {

// One coordinator at a time holds a state folder; it is free again when this object goes.
class EpochStore {
 public:
  // Makes the folder where it is missing. FAILED_PRECONDITION if another coordinator holds it,
  // DATA_LOSS if the file "epoch" in it is not one decimal number. An empty `dir` keeps the epoch
  // in memory only: every deployment is number 1.
  static absl::StatusOr<std::unique_ptr<EpochStore>> Open(const std::string& dir);

  // The next epoch, on disk before it is returned.
  absl::StatusOr<uint64_t> Next();

 private:
  explicit EpochStore(std::string dir) : dir_(std::move(dir)) {}
  absl::Status Write(uint64_t epoch) const;

  std::string dir_;
  UniqueFd lock_;
  uint64_t epoch_ = 0;
};

}  // namespace whalepod
