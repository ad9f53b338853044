// The memory that the ranks of one group on one host share, and the communicator on it.
//
// Layout, every piece on its own cache lines:
//   Header | RankLine[size] | Slot[2][size][size] | outbox[2][size]
// An operation is one or more rounds. In a round each rank writes what it sends into its outbox of
// the round's parity, describes it in its slots and arrives; the last to arrive opens the gate;
// then all read what is theirs. A rank that has passed round n+1's gate knows that all have read
// round n's outboxes: two halves suffice and nothing else is waited for.
//
// All ranks sleep on one futex word, the gate: rounds count in its upper 31 bits, bit 0 is the
// abort word. One wake a round is enough, and an abort cannot be missed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/comm/group.h"

namespace whalepod {

class ShmRegion {
 public:
  static constexpr size_t kLine = 64;
  static constexpr size_t kMaxMessage = 960;

  struct alignas(kLine) Header {
    std::atomic<uint32_t> gate;      // 2 * rounds | aborted
    std::atomic<uint32_t> sleepers;  // ranks in futex_wait, or about to be
    // 0: no error; 1: being written; 2: written.
    alignas(kLine) std::atomic<uint32_t> error_state;
    uint32_t error_code;
    uint32_t error_bytes;
    char error_message[kMaxMessage];
    alignas(kLine) std::atomic<uint32_t> arrived;  // in this round
  };
  // Written by one rank only.
  struct alignas(kLine) RankLine {
    std::atomic<uint32_t> arrivals;  // rounds this rank arrived in
  };
  // What one rank sends another in one round. AllGather and Barrier use the slot to place 0 for
  // all.
  struct alignas(kLine) Slot {
    uint32_t round;
    OpKind kind;
    uint32_t more;    // 1: the sender needs another round
    int64_t total;    // bytes of the whole operation
    uint64_t offset;  // into the outbox
    uint64_t bytes;   // in this round
  };

  // Bytes for a group of `size` with outboxes of `outbox` bytes (a multiple of kLine).
  static size_t Bytes(int size, size_t outbox);

  // `base` is kLine-aligned, Bytes() long and, before the first rank uses it, all zero. `release`
  // is called when the region is destroyed (unmaps, or frees).
  ShmRegion(std::byte* base, int size, size_t outbox, std::function<void()> release);
  ~ShmRegion();
  ShmRegion(const ShmRegion&) = delete;
  ShmRegion& operator=(const ShmRegion&) = delete;

  int size() const { return size_; }
  size_t outbox_bytes() const { return outbox_; }
  Header& header() const { return *reinterpret_cast<Header*>(base_); }
  RankLine& line(int rank) const;
  Slot& slot(uint32_t round, int from, int to) const;
  std::byte* outbox(uint32_t round, int rank) const;

  // Fails the group: the first error stays, all sleepers wake.
  void Poison(const absl::Status& error) const;
  bool poisoned() const { return (header().gate.load(std::memory_order_acquire) & 1) != 0; }
  // The error that was written; ABORTED if its writer died on the way.
  absl::Status error() const;

 private:
  std::byte* const base_;
  const int size_;
  const size_t outbox_;
  const std::function<void()> release_;
};

// Returns the first place in the group whose process is gone, or -1. Called about 20 times a second
// while waiting.
using LivenessProbe = std::function<int()>;

// `yields`: how often to look at the gate before sleeping, at most.
std::unique_ptr<Communicator> MakeShmCommunicator(Group group, std::unique_ptr<ShmRegion> region,
                                                  int yields, LivenessProbe probe,
                                                  const Clock* clock);

}  // namespace whalepod
