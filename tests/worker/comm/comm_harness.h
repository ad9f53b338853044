// Ranks as threads, over any implementation of the communicators.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/communicator.h"
#include "worker/comm/in_process.h"

namespace whalepod {

// kRegion is shared memory's algorithm on one mapping, so that TSan sees both sides of it.
enum class CommKind { kInProcess, kRegion, kSharedMemory, kGloo, kAuto };
std::string CommKindName(CommKind kind);

using Communicators = std::vector<std::unique_ptr<Communicator>>;

// A world of `size` ranks on one host, each with its factory; outboxes (pieces) of `piece` bytes.
class CommHarness {
 public:
  CommHarness(CommKind kind, int size, int64_t piece);

  int size() const { return static_cast<int>(factories_.size()); }
  CommunicatorFactory::Peers PeersOf(int rank) const;
  absl::StatusOr<Communicators> Connect(int rank,
                                        absl::Span<const CommunicatorFactory::GroupSpec> groups,
                                        TimePoint deadline);

  // Connects every rank to those of `groups` that hold it (in order) and runs body(rank, its
  // communicators) on a thread each. Returns each rank's status: of connecting, else of the body.
  std::vector<absl::Status> Run(
      const std::vector<CommunicatorFactory::GroupSpec>& groups,
      const std::function<absl::Status(int, absl::Span<Communicator* const>)>& body);

 private:
  const CommKind kind_;
  std::unique_ptr<InProcessWorld> world_;                    // kInProcess
  std::vector<std::unique_ptr<CommunicatorFactory>> owned_;  // else
  std::vector<CommunicatorFactory*> factories_;              // by rank
  std::vector<std::string> rendezvous_;
};

TimePoint After(std::chrono::milliseconds from_now);

// One group of all ranks.
CommunicatorFactory::GroupSpec WorldGroup(int size, int64_t max_bytes);

// `operations` random operations with random sizes (often none) up to max_bytes, each checked
// byte by byte. Every member of the group calls this with the same seed.
absl::Status RandomOperations(Communicator* communicator, uint64_t seed, int operations,
                              int64_t max_bytes, TimePoint deadline);

}  // namespace whalepod
