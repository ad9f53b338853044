// Chooses how the ranks of a group talk: shared memory where all are on one host, Gloo where the
// group spans hosts.
#pragma once

#include <memory>

#include "worker/comm/communicator.h"
#include "worker/comm/gloo.h"
#include "worker/comm/shared_memory.h"

namespace whalepod {

struct AutoOptions {
  SharedMemoryOptions shared_memory;
  // Without an address and an interface nothing listens, and groups that span hosts are refused
  // (FAILED_PRECONDITION naming the group and its hosts).
  GlooOptions gloo;
};

// One rank's factory, for one epoch. Peers.hosts says who is on which host.
std::unique_ptr<CommunicatorFactory> MakeAutoCommunicatorFactory(const AutoOptions& options);

}  // namespace whalepod
