// Communicators between processes of one host: one memfd per group (worker/comm/shm_region.h),
// handed around over abstract Unix sockets. Neither has a name in a file system, so nothing is left
// behind however the processes end.
#pragma once

#include <memory>

#include "proto/plan/memory.h"
#include "worker/comm/communicator.h"

namespace whalepod {

struct SharedMemoryOptions {
  // An outbox holds the smaller of this and the group's max_bytes; longer messages go in pieces.
  // A group's memory is 2 * ranks * outbox and is reserved when it is made.
  int64_t max_outbox_bytes = kMaxOutboxBytes;
  // How often to look for peers before sleeping, at most; the core is given to others in between.
  int yields = 1000;
  const Clock* clock = Clock::Real();  // not owned
};

// One rank's factory, for one epoch: Rendezvous once, then Connect once. The rendezvous is the
// unguessable name of a socket, on which the first rank of each group gives the group's memory to
// the others (of the same user, in the same network namespace). Errors of Connect:
// DEADLINE_EXCEEDED names the ranks that did not come, UNAVAILABLE a rank that cannot be reached,
// INVALID_ARGUMENT both views of a group that differ, RESOURCE_EXHAUSTED the bytes not to be had.
std::unique_ptr<CommunicatorFactory> MakeSharedMemoryFactory(
    const SharedMemoryOptions& options = {});

}  // namespace whalepod
