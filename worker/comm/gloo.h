// Communicators between processes of several hosts: Gloo's point-to-point buffers over TCP. Gloo's
// own collectives are not used: they can't be aborted.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/plan/memory.h"
#include "worker/comm/communicator.h"

namespace whalepod {

struct GlooOptions {
  // Where to listen: an IP address or host name of this machine that all peers can dial, or a
  // network interface. One of the two; peers must use the same IP version.
  std::string address;
  std::string interface;
  // Longer messages go in pieces; each peer of each group costs four pieces of memory.
  int64_t max_piece_bytes = kMaxGlooPieceBytes;
  const Clock* clock = Clock::Real();  // not owned
};

// One rank's factory, for one epoch: Rendezvous once, then Connect once. The rendezvous is the
// endpoint of a TCP listener. Besides Gloo's connections each two ranks keep one that carries only
// the reason of a failure, watched by a thread: when a member fails, aborts or dies, all others'
// waits end at once with its error (of a death: UNAVAILABLE naming it).
//
// A communicator that has not failed says goodbye when it is destroyed and waits up to 2 s for its
// peers to finish too, so that what it sent last is not lost.
//
// Sets SIGPIPE to be ignored if nothing else handles it: Gloo writes to closed sockets.
std::unique_ptr<CommunicatorFactory> MakeGlooFactory(const GlooOptions& options);

}  // namespace whalepod
