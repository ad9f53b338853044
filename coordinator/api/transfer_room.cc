#include "coordinator/api/transfer_room.h"

#include "absl/strings/str_cat.h"
#include "coordinator/api/errors.h"

namespace whalepod {

absl::StatusOr<TransferRoom::Share> TransferRoom::Take(size_t bytes) {
  std::lock_guard lock(mu_);
  if (bytes > left_) {
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                              bytes, " bytes to be sent while others leave room for ", left_)),
                          "QUEUE_FULL", kRetryMs);
  }
  left_ -= bytes;
  return Share(this, [this, bytes](const void*) {
    std::lock_guard lock(mu_);
    left_ += bytes;
  });
}

}  // namespace whalepod
