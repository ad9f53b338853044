// How ranks of one group move bytes to each other. Communicators never add: sums are made by
// Backend::TreeAdd in one order (docs/numbers.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"

namespace whalepod {

// One rank's end of one group. All members call the same operations in the same order with matching
// sizes (the plan's schedule says which); a member with nothing to send calls with zero bytes.
// One thread at a time calls operations; Abort may be called from any thread at any time.
//
// Errors: DEADLINE_EXCEEDED names the ranks that did not come; ABORTED carries Abort's reason;
// UNAVAILABLE names a lost peer. After any error the communicator stays failed: every later call
// returns the first error.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // within the group
  virtual int size() const = 0;

  // all = the concatenation over ranks r of r's `mine`, in rank order. bytes[r] is the size rank r
  // sends; all.size() is their sum, mine.size() == bytes[rank()]. `mine` may alias its own place
  // in `all`.
  virtual absl::Status AllGather(absl::Span<const std::byte> mine, absl::Span<const int64_t> bytes,
                                 absl::Span<std::byte> all, TimePoint deadline) = 0;

  // Sends send[p] to each rank p and fills recv[p] with what p sends here; recv[p].size() is the
  // size of what p sends. The own entry is copied. Buffers do not overlap.
  virtual absl::Status AllToAll(absl::Span<const absl::Span<const std::byte>> send,
                                absl::Span<const absl::Span<std::byte>> recv,
                                TimePoint deadline) = 0;

  // Returns when every member has called it.
  virtual absl::Status Barrier(TimePoint deadline) = 0;

  // Fails all present and later operations of this rank, and frees peers that wait for it.
  // Idempotent; the first reason stays.
  virtual void Abort(const std::string& reason) = 0;
};

// Makes the communicators of one rank for all its groups: what differs between shared memory, Gloo
// and in-process.
class CommunicatorFactory {
 public:
  virtual ~CommunicatorFactory() = default;

  // An opaque blob others need in order to reach this rank; collected by the coordinator before
  // Connect.
  virtual absl::StatusOr<std::string> Rendezvous() = 0;

  struct Peers {
    int rank = 0;                         // own global rank
    std::vector<std::string> rendezvous;  // by global rank
    std::vector<std::string> hosts;       // by global rank
    std::string session;                  // the epoch's unguessable name
  };
  struct GroupSpec {
    std::string name;
    std::vector<int> ranks;  // global ranks in group order; holds peers.rank
    int64_t max_bytes = 0;   // the most that one rank contributes to one operation
  };
  // Collective over all members of the groups; groups come in the same order on every rank.
  virtual absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> Connect(
      const Peers& peers, absl::Span<const GroupSpec> groups, TimePoint deadline) = 0;
};

}  // namespace whalepod
