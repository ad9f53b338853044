// What all communicators share: who is in a group, the checks of an operation's sizes, and the
// error that a failed communicator keeps.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/communicator.h"

namespace whalepod {

enum class OpKind : uint32_t { kNone = 0, kAllGather = 1, kAllToAll = 2, kBarrier = 3 };
const char* OpName(OpKind kind);

// One group seen from one member. Errors name global ranks: those are what an operator knows.
struct Group {
  std::string name;
  std::vector<int> ranks;  // global ranks in group order
  int rank = 0;            // own place in `ranks`

  int size() const { return static_cast<int>(ranks.size()); }
  // "rank 5" for a place in the group.
  std::string Name(int place) const;
  // "ranks 1, 5" (or "rank 1") for places in the group.
  std::string Names(absl::Span<const int> places) const;
};

// Own place filled in. INVALID_ARGUMENT if the spec does not hold `global_rank` exactly once or
// names a rank outside the world.
absl::StatusOr<Group> MakeGroup(const CommunicatorFactory::GroupSpec& spec, int global_rank,
                                int world_size);

// OK, or INVALID_ARGUMENT naming the sizes that do not fit the communicator's contract.
absl::Status CheckAllGather(const Group& group, absl::Span<const std::byte> mine,
                            absl::Span<const int64_t> bytes, absl::Span<std::byte> all);
absl::Status CheckAllToAll(const Group& group, absl::Span<const absl::Span<const std::byte>> send,
                           absl::Span<const absl::Span<std::byte>> recv);

// What two members that disagree about an operation are told.
absl::Status KindMismatch(const Group& group, OpKind mine, int other, OpKind theirs);
absl::Status SizeMismatch(const Group& group, OpKind kind, int sender, int64_t sends,
                          int64_t expected);
// DEADLINE_EXCEEDED naming the places that did not come.
absl::Status Missing(const Group& group, OpKind kind, absl::Span<const int> places);

// memcpy that permits an empty copy and source == destination.
void CopyBytes(std::byte* to, const std::byte* from, size_t bytes);

// The first error of a communicator. Thread-safe.
class FirstError {
 public:
  // Keeps `error` if none is kept yet. Returns the kept one.
  absl::Status Set(const absl::Status& error);
  // OK while there is none.
  absl::Status Get() const;

 private:
  std::atomic<bool> failed_{false};
  mutable std::mutex mu_;
  absl::Status error_;
};

}  // namespace whalepod
