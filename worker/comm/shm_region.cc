#include "worker/comm/shm_region.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <climits>
#include <cstring>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace whalepod {
namespace {

// A dead peer is noticed after this long at most.
constexpr Duration kProbeInterval = std::chrono::milliseconds(50);
// Looks without giving the core away: about what the peers need where each has a core of its own.
constexpr int kPauses = 64;
// Looking ends after this long whatever happens, so that dead peers and deadlines are seen.
constexpr Duration kLookingTime = std::chrono::milliseconds(2);

static_assert(std::atomic<uint32_t>::is_always_lock_free);
static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));

void FutexWait(std::atomic<uint32_t>* word, uint32_t value, Duration timeout) {
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  timespec spec{static_cast<time_t>(seconds.count()),
                static_cast<long>((timeout - seconds).count())};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, value, &spec, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

size_t AlignLine(size_t bytes) {
  return (bytes + ShmRegion::kLine - 1) / ShmRegion::kLine * ShmRegion::kLine;
}

}  // namespace

size_t ShmRegion::Bytes(int size, size_t outbox) {
  size_t n = size;
  return sizeof(Header) + n * sizeof(RankLine) + 2 * n * n * sizeof(Slot) + 2 * n * outbox;
}

ShmRegion::ShmRegion(std::byte* base, int size, size_t outbox, std::function<void()> release)
    : base_(base), size_(size), outbox_(outbox), release_(std::move(release)) {
  CHECK(reinterpret_cast<uintptr_t>(base) % kLine == 0 && outbox % kLine == 0);
}

ShmRegion::~ShmRegion() {
  if (release_) release_();
}

ShmRegion::RankLine& ShmRegion::line(int rank) const {
  return reinterpret_cast<RankLine*>(base_ + sizeof(Header))[rank];
}

ShmRegion::Slot& ShmRegion::slot(uint32_t round, int from, int to) const {
  std::byte* slots = base_ + sizeof(Header) + size_ * sizeof(RankLine);
  return reinterpret_cast<Slot*>(slots)[(size_t{round % 2} * size_ + from) * size_ + to];
}

std::byte* ShmRegion::outbox(uint32_t round, int rank) const {
  std::byte* boxes = base_ + Bytes(size_, 0);
  return boxes + (size_t{round % 2} * size_ + rank) * outbox_;
}

void ShmRegion::Poison(const absl::Status& error) const {
  Header& head = header();
  uint32_t none = 0;
  if (head.error_state.compare_exchange_strong(none, 1)) {
    size_t bytes = std::min(error.message().size(), kMaxMessage);
    std::memcpy(head.error_message, error.message().data(), bytes);
    head.error_bytes = static_cast<uint32_t>(bytes);
    head.error_code = static_cast<uint32_t>(error.code());
    head.error_state.store(2, std::memory_order_release);
  }
  head.gate.fetch_or(1);
  FutexWakeAll(&head.gate);
}

absl::Status ShmRegion::error() const {
  const Header& head = header();
  if (head.error_state.load(std::memory_order_acquire) != 2) {
    return absl::AbortedError("another rank failed; its reason was lost");
  }
  size_t bytes = std::min<size_t>(head.error_bytes, kMaxMessage);
  return absl::Status(static_cast<absl::StatusCode>(head.error_code),
                      absl::string_view(head.error_message, bytes));
}

namespace {

class ShmCommunicator : public Communicator {
 public:
  ShmCommunicator(Group group, std::unique_ptr<ShmRegion> region, int yields, LivenessProbe probe,
                  const Clock* clock)
      : group_(std::move(group)),
        region_(std::move(region)),
        yields_(yields),
        probe_(std::move(probe)),
        clock_(clock),
        sent_(group_.size()),
        received_(group_.size()),
        parts_(group_.size()) {
    CHECK_EQ(region_->size(), group_.size());
    // The gate cannot move before this rank's first arrival.
    round_ = region_->header().gate.load(std::memory_order_acquire) >> 1;
  }

  int rank() const override { return group_.rank; }
  int size() const override { return group_.size(); }

  absl::Status AllGather(absl::Span<const std::byte> mine, absl::Span<const int64_t> bytes,
                         absl::Span<std::byte> all, TimePoint deadline) override {
    RETURN_IF_ERROR(error_.Get());
    if (absl::Status bad = CheckAllGather(group_, mine, bytes, all); !bad.ok()) return Fail(bad);
    size_t offset = 0;
    for (int r = 0; r < size(); ++r) {
      parts_[r] = all.subspan(offset, bytes[r]);
      offset += bytes[r];
    }
    CopyBytes(parts_[rank()].data(), mine.data(), mine.size());
    return Run(OpKind::kAllGather, {&mine, 1}, parts_, deadline);
  }

  absl::Status AllToAll(absl::Span<const absl::Span<const std::byte>> send,
                        absl::Span<const absl::Span<std::byte>> recv, TimePoint deadline) override {
    RETURN_IF_ERROR(error_.Get());
    if (absl::Status bad = CheckAllToAll(group_, send, recv); !bad.ok()) return Fail(bad);
    CopyBytes(recv[rank()].data(), send[rank()].data(), send[rank()].size());
    return Run(OpKind::kAllToAll, send, recv, deadline);
  }

  absl::Status Barrier(TimePoint deadline) override {
    RETURN_IF_ERROR(error_.Get());
    std::fill(parts_.begin(), parts_.end(), absl::Span<std::byte>());
    absl::Span<const std::byte> nothing;
    return Run(OpKind::kBarrier, {&nothing, 1}, parts_, deadline);
  }

  void Abort(const std::string& reason) override {
    if (!error_.Get().ok()) return;
    error_.Set(absl::AbortedError(reason)).IgnoreError();
    region_->Poison(absl::AbortedError(
        absl::StrCat("group ", group_.name, ": ", group_.Name(rank()), " aborted: ", reason)));
  }

 private:
  // Keeps the error and frees the peers.
  absl::Status Fail(const absl::Status& error) {
    absl::Status first = error_.Set(error);
    region_->Poison(first);
    return first;
  }

  // send: one part per destination for AllToAll, else the one part that all get. recv: per source;
  // the own one has been filled.
  absl::Status Run(OpKind kind, absl::Span<const absl::Span<const std::byte>> send,
                   absl::Span<const absl::Span<std::byte>> recv, TimePoint deadline) {
    if (size() == 1) return absl::OkStatus();
    std::fill(sent_.begin(), sent_.end(), 0);
    std::fill(received_.begin(), received_.end(), 0);
    for (bool more = true; more;) {
      more = Write(kind, send);
      RETURN_IF_ERROR(Arrive(kind, deadline));
      for (int step = 1; step < size(); ++step) {
        int from = (rank() + step) % size();
        RETURN_IF_ERROR(Read(kind, from, recv[from], &more));
      }
      ++round_;
    }
    return absl::OkStatus();
  }

  // Fills this round's outbox and slots; true if something is left for another round.
  bool Write(OpKind kind, absl::Span<const absl::Span<const std::byte>> send) {
    std::byte* outbox = region_->outbox(round_, rank());
    size_t used = 0;
    uint32_t more = 0;
    for (size_t to = 0; to < send.size(); ++to) {
      if (kind == OpKind::kAllToAll && static_cast<int>(to) == rank()) continue;
      size_t bytes = std::min(send[to].size() - sent_[to], region_->outbox_bytes() - used);
      CopyBytes(outbox + used, send[to].data() + sent_[to], bytes);
      sent_[to] += bytes;
      if (sent_[to] != send[to].size()) more = 1;
      ShmRegion::Slot& slot = region_->slot(round_, rank(), static_cast<int>(to));
      slot.round = round_;
      slot.kind = kind;
      slot.total = static_cast<int64_t>(send[to].size());
      slot.offset = used;
      slot.bytes = bytes;
      used = AlignLine(used + bytes);
    }
    for (size_t to = 0; to < send.size(); ++to) {
      region_->slot(round_, rank(), static_cast<int>(to)).more = more;
    }
    return more != 0;
  }

  absl::Status Read(OpKind kind, int from, absl::Span<std::byte> into, bool* more) {
    bool own_slot = kind == OpKind::kAllToAll;
    const ShmRegion::Slot& slot = region_->slot(round_, from, own_slot ? rank() : 0);
    if (slot.round != round_ || slot.kind != kind) {
      // A sender of the other sort has filled other slots: AllToAll all but its own, else slot 0.
      const ShmRegion::Slot& other = region_->slot(round_, from, own_slot ? 0 : 1);
      const ShmRegion::Slot& told = slot.round == round_ ? slot : other;
      return Fail(
          KindMismatch(group_, kind, from, told.round == round_ ? told.kind : OpKind::kNone));
    }
    if (slot.total != static_cast<int64_t>(into.size())) {
      return Fail(SizeMismatch(group_, kind, from, slot.total, into.size()));
    }
    size_t left = into.size() - received_[from];
    if (slot.bytes > left || slot.offset > region_->outbox_bytes() ||
        slot.bytes > region_->outbox_bytes() - slot.offset) {
      return Fail(absl::InternalError(
          absl::StrCat("group ", group_.name, ": ", group_.Name(from), " wrote a piece of ",
                       slot.bytes, " bytes at ", slot.offset, ", ", left, " are left of ",
                       into.size(), " and its outbox has ", region_->outbox_bytes())));
    }
    CopyBytes(into.data() + received_[from], region_->outbox(round_, from) + slot.offset,
              slot.bytes);
    received_[from] += slot.bytes;
    if (slot.more != 0) *more = true;
    return absl::OkStatus();
  }

  // Arrives in this round and waits until the gate opens.
  absl::Status Arrive(OpKind kind, TimePoint deadline) {
    ShmRegion::Header& head = region_->header();
    uint32_t closed = round_ << 1;
    region_->line(rank()).arrivals.store(round_ + 1, std::memory_order_release);
    if (head.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size())) {
      head.arrived.store(0, std::memory_order_relaxed);
      uint32_t before = head.gate.fetch_add(2);
      if (head.sleepers.load() > 0) FutexWakeAll(&head.gate);
      return (before & 1) == 0 ? absl::OkStatus() : Poisoned();
    }
    Look(closed);
    while (head.gate.load(std::memory_order_acquire) == closed) {
      Duration left = deadline - clock_->Now();
      if (left <= Duration::zero()) return Late(kind);
      head.sleepers.fetch_add(1);
      FutexWait(&head.gate, closed, std::min(left, kProbeInterval));
      head.sleepers.fetch_sub(1);
      if (head.gate.load(std::memory_order_acquire) == closed) RETURN_IF_ERROR(Probe(kind));
    }
    return region_->poisoned() ? Poisoned() : absl::OkStatus();
  }

  // Looks at the gate for a while before the rank sleeps, giving the core to other ranks in
  // between: a sleeper is woken by an interrupt, which takes longer than a whole exchange.
  void Look(uint32_t closed) {
    const std::atomic<uint32_t>& gate = region_->header().gate;
    for (int i = 0; i < std::min(kPauses, yields_); ++i) {
      if (gate.load(std::memory_order_acquire) != closed) return;
      Pause();
    }
    const TimePoint start = clock_->Now();
    for (int i = 0; i < yields_ && clock_->Now() - start < kLookingTime; ++i) {
      if (gate.load(std::memory_order_acquire) != closed) return;
      sched_yield();
    }
  }

  absl::Status Poisoned() { return error_.Set(region_->error()); }

  absl::Status Late(OpKind kind) {
    std::vector<int> missing;
    for (int r = 0; r < size(); ++r) {
      if (region_->line(r).arrivals.load(std::memory_order_acquire) != round_ + 1) {
        missing.push_back(r);
      }
    }
    if (missing.empty()) {
      return Fail(absl::DeadlineExceededError(absl::StrCat(
          OpName(kind), " in group ", group_.name, ": the last rank came at the deadline")));
    }
    return Fail(Missing(group_, kind, missing));
  }

  absl::Status Probe(OpKind kind) {
    int gone = probe_ ? probe_() : -1;
    // The peer may have done its part and left, and the gate have opened since.
    if (gone < 0 || region_->header().gate.load(std::memory_order_acquire) != round_ << 1) {
      return absl::OkStatus();
    }
    return Fail(absl::UnavailableError(absl::StrCat(OpName(kind), " in group ", group_.name, ": ",
                                                    group_.Name(gone), " is gone")));
  }

  const Group group_;
  const std::unique_ptr<ShmRegion> region_;
  const int yields_;
  const LivenessProbe probe_;
  const Clock* const clock_;
  uint32_t round_ = 0;            // wraps; the gate holds its lower 31 bits
  std::vector<size_t> sent_;      // bytes of each part this operation
  std::vector<size_t> received_;  // bytes from each rank this operation
  std::vector<absl::Span<std::byte>> parts_;
  FirstError error_;
};

}  // namespace

std::unique_ptr<Communicator> MakeShmCommunicator(Group group, std::unique_ptr<ShmRegion> region,
                                                  int yields, LivenessProbe probe,
                                                  const Clock* clock) {
  return std::make_unique<ShmCommunicator>(std::move(group), std::move(region), yields,
                                           std::move(probe), clock);
}

}  // namespace whalepod
