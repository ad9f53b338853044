#include "coordinator/api/transfer_room.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/api/errors.h"

namespace whalepod {

absl::StatusOr<TransferRoom::Share> TransferRoom::Take(const std::string& tenant, size_t bytes) {
  std::lock_guard lock(mu_);
  const auto mine = taken_.find(tenant);
  const size_t have = mine == taken_.end() ? 0 : mine->second;
  const size_t may =
      tenant.empty() ? left_ : std::min(left_, most_of_one_ - std::min(most_of_one_, have));
  if (bytes > may) {
    return WithRetryDelay(
        absl::ResourceExhaustedError(absl::StrCat(
            bytes, " bytes to be sent, while what is under way leaves room for ", may)),
        "QUEUE_FULL", kRetryMs);
  }
  left_ -= bytes;
  taken_[tenant] += bytes;
  return Share(this, [this, tenant, bytes](const void*) {
    std::lock_guard lock(mu_);
    left_ += bytes;
    const auto taken = taken_.find(tenant);
    taken->second -= bytes;
    if (taken->second == 0) taken_.erase(taken);
  });
}

}  // namespace whalepod
