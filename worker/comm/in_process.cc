#include "worker/comm/in_process.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "worker/comm/group.h"

namespace whalepod {
namespace {

using Bytes = std::vector<std::byte>;

// What one rank puts in for one operation.
struct Contribution {
  OpKind kind = OpKind::kNone;
  std::vector<Bytes> parts;  // AllToAll: one per destination; AllGather: one for all
};

// Contributions are double-buffered by round: a rank that enters round n+2 knows that all peers
// have entered round n+1, so they have read round n.
struct Shared {
  std::mutex mu;
  std::condition_variable changed;
  uint64_t round = 0;  // complete rounds
  int arrived = 0;
  std::vector<uint64_t> arrivals;                        // rounds each rank arrived in
  std::array<std::vector<Contribution>, 2> contributed;  // [round % 2][rank]
  absl::Status error;                                    // fails the whole group
};

class InProcessCommunicator : public Communicator {
 public:
  InProcessCommunicator(Group group, std::shared_ptr<Shared> shared, const Clock* clock)
      : group_(std::move(group)), shared_(std::move(shared)), clock_(clock) {}

  int rank() const override { return group_.rank; }
  int size() const override { return group_.size(); }

  absl::Status AllGather(absl::Span<const std::byte> mine, absl::Span<const int64_t> bytes,
                         absl::Span<std::byte> all, TimePoint deadline) override {
    RETURN_IF_ERROR(error_.Get());
    if (absl::Status bad = CheckAllGather(group_, mine, bytes, all); !bad.ok()) return Fail(bad);
    Contribution own{OpKind::kAllGather, {Bytes(mine.begin(), mine.end())}};
    RETURN_IF_ERROR(Exchange(std::move(own), deadline));
    size_t offset = 0;
    for (int r = 0; r < size(); ++r) {
      RETURN_IF_ERROR(Take(r, OpKind::kAllGather, 0, all.subspan(offset, bytes[r])));
      offset += bytes[r];
    }
    return absl::OkStatus();
  }

  absl::Status AllToAll(absl::Span<const absl::Span<const std::byte>> send,
                        absl::Span<const absl::Span<std::byte>> recv, TimePoint deadline) override {
    RETURN_IF_ERROR(error_.Get());
    if (absl::Status bad = CheckAllToAll(group_, send, recv); !bad.ok()) return Fail(bad);
    Contribution own{OpKind::kAllToAll, {}};
    for (const auto& part : send) own.parts.emplace_back(part.begin(), part.end());
    RETURN_IF_ERROR(Exchange(std::move(own), deadline));
    for (int r = 0; r < size(); ++r) {
      RETURN_IF_ERROR(Take(r, OpKind::kAllToAll, rank(), recv[r]));
    }
    return absl::OkStatus();
  }

  absl::Status Barrier(TimePoint deadline) override {
    RETURN_IF_ERROR(error_.Get());
    RETURN_IF_ERROR(Exchange({OpKind::kBarrier, {Bytes()}}, deadline));
    for (int r = 0; r < size(); ++r) RETURN_IF_ERROR(Take(r, OpKind::kBarrier, 0, {}));
    return absl::OkStatus();
  }

  void Abort(const std::string& reason) override {
    if (!error_.Get().ok()) return;
    error_.Set(absl::AbortedError(reason)).IgnoreError();
    Poison(absl::AbortedError(
        absl::StrCat("group ", group_.name, ": ", group_.Name(rank()), " aborted: ", reason)));
  }

 private:
  void Poison(const absl::Status& error) {
    std::lock_guard<std::mutex> lock(shared_->mu);
    if (shared_->error.ok()) shared_->error = error;
    shared_->changed.notify_all();
  }

  // Keeps the error and frees the peers.
  absl::Status Fail(const absl::Status& error) {
    absl::Status first = error_.Set(error);
    Poison(first);
    return first;
  }

  // Puts `own` in and waits until all have put theirs in.
  absl::Status Exchange(Contribution own, TimePoint deadline) {
    OpKind kind = own.kind;
    std::unique_lock<std::mutex> lock(shared_->mu);
    if (!shared_->error.ok()) return error_.Set(shared_->error);
    uint64_t round = shared_->round;
    parity_ = round % 2;
    shared_->contributed[parity_][rank()] = std::move(own);
    shared_->arrivals[rank()] = round + 1;
    if (++shared_->arrived == size()) {
      shared_->arrived = 0;
      ++shared_->round;
      shared_->changed.notify_all();
      return absl::OkStatus();
    }
    auto done = [&] { return shared_->round != round || !shared_->error.ok(); };
    if (deadline == kNoDeadline) {
      shared_->changed.wait(lock, done);
    } else {
      shared_->changed.wait_for(lock, deadline - clock_->Now(), done);
    }
    if (!shared_->error.ok()) return error_.Set(shared_->error);
    if (shared_->round != round) return absl::OkStatus();
    std::vector<int> missing;
    for (int r = 0; r < size(); ++r) {
      if (shared_->arrivals[r] != round + 1) missing.push_back(r);
    }
    lock.unlock();
    return Fail(Missing(group_, kind, missing));
  }

  // Copies what `from` put in for this rank in the round that Exchange just completed.
  absl::Status Take(int from, OpKind kind, int part, absl::Span<std::byte> to) {
    const Contribution& theirs = shared_->contributed[parity_][from];
    if (theirs.kind != kind) return Fail(KindMismatch(group_, kind, from, theirs.kind));
    const Bytes& bytes = theirs.parts[part];
    if (bytes.size() != to.size()) {
      return Fail(SizeMismatch(group_, kind, from, bytes.size(), to.size()));
    }
    CopyBytes(to.data(), bytes.data(), bytes.size());
    return absl::OkStatus();
  }

  const Group group_;
  const std::shared_ptr<Shared> shared_;
  const Clock* const clock_;
  int parity_ = 0;
  FirstError error_;
};

// Finds or makes the state that the members of a group share.
class Meeting {
 public:
  std::shared_ptr<Shared> Find(const std::string& session, const Group& group) {
    std::lock_guard<std::mutex> lock(mu_);
    std::shared_ptr<Shared>& shared =
        groups_[absl::StrCat(session, "\n", group.name, "\n", absl::StrJoin(group.ranks, ","))];
    if (shared == nullptr) {
      shared = std::make_shared<Shared>();
      shared->arrivals.resize(group.size());
      for (auto& half : shared->contributed) half.resize(group.size());
    }
    return shared;
  }

 private:
  std::mutex mu_;
  std::map<std::string, std::shared_ptr<Shared>> groups_;
};

class InProcessFactory : public CommunicatorFactory {
 public:
  InProcessFactory(int rank, int size, std::shared_ptr<Meeting> meeting, const Clock* clock)
      : rank_(rank), size_(size), meeting_(std::move(meeting)), clock_(clock) {}

  absl::StatusOr<std::string> Rendezvous() override { return absl::StrCat("in-process ", rank_); }

  absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> Connect(
      const Peers& peers, absl::Span<const GroupSpec> specs, TimePoint deadline) override {
    if (peers.rank != rank_ || static_cast<int>(peers.rendezvous.size()) != size_) {
      return absl::InvalidArgumentError(absl::StrCat("in-process rank ", rank_, " of ", size_,
                                                     " was told it is rank ", peers.rank, " of ",
                                                     peers.rendezvous.size()));
    }
    std::vector<std::unique_ptr<Communicator>> communicators;
    for (const GroupSpec& spec : specs) {
      ASSIGN_OR_RETURN(Group group, MakeGroup(spec, rank_, size_));
      std::shared_ptr<Shared> shared = meeting_->Find(peers.session, group);
      communicators.push_back(
          std::make_unique<InProcessCommunicator>(std::move(group), std::move(shared), clock_));
    }
    for (auto& communicator : communicators) RETURN_IF_ERROR(communicator->Barrier(deadline));
    return communicators;
  }

 private:
  const int rank_;
  const int size_;
  const std::shared_ptr<Meeting> meeting_;
  const Clock* const clock_;
};

}  // namespace

InProcessWorld::InProcessWorld(int size, const Clock* clock) {
  auto meeting = std::make_shared<Meeting>();
  for (int rank = 0; rank < size; ++rank) {
    factories_.push_back(std::make_unique<InProcessFactory>(rank, size, meeting, clock));
  }
}

InProcessWorld::~InProcessWorld() = default;

}  // namespace whalepod
