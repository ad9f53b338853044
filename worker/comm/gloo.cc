#include "worker/comm/gloo.h"

#include <gloo/transport/tcp/device.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "worker/comm/gloo_mesh.h"
#include "worker/comm/group.h"
#include "worker/comm/tcp_socket.h"

namespace whalepod {
namespace {

// An empty message is one empty piece.
int64_t Pieces(int64_t total, size_t piece) {
  return std::max<int64_t>(1, (total + piece - 1) / piece);
}

class GlooCommunicator : public Communicator {
 public:
  // mesh is null, and `state` owned, in a group of one.
  GlooCommunicator(std::shared_ptr<GlooMesh> mesh, std::unique_ptr<GlooGroup> owned,
                   GlooGroup* state, const Clock* clock)
      : mesh_(std::move(mesh)),
        owned_(std::move(owned)),
        state_(owned_ != nullptr ? owned_.get() : state),
        group_(state_->group),
        clock_(clock),
        parts_(group_.size()),
        same_(group_.size()) {}

  int rank() const override { return group_.rank; }
  int size() const override { return group_.size(); }

  absl::Status AllGather(absl::Span<const std::byte> mine, absl::Span<const int64_t> bytes,
                         absl::Span<std::byte> all, TimePoint deadline) override {
    RETURN_IF_ERROR(state_->error.Get());
    if (absl::Status bad = CheckAllGather(group_, mine, bytes, all); !bad.ok()) return Fail(bad);
    size_t offset = 0;
    for (int r = 0; r < size(); ++r) {
      parts_[r] = all.subspan(offset, bytes[r]);
      offset += bytes[r];
    }
    CopyBytes(parts_[rank()].data(), mine.data(), mine.size());
    std::fill(same_.begin(), same_.end(), mine);
    return Run(OpKind::kAllGather, same_, parts_, deadline);
  }

  absl::Status AllToAll(absl::Span<const absl::Span<const std::byte>> send,
                        absl::Span<const absl::Span<std::byte>> recv, TimePoint deadline) override {
    RETURN_IF_ERROR(state_->error.Get());
    if (absl::Status bad = CheckAllToAll(group_, send, recv); !bad.ok()) return Fail(bad);
    CopyBytes(recv[rank()].data(), send[rank()].data(), send[rank()].size());
    return Run(OpKind::kAllToAll, send, recv, deadline);
  }

  absl::Status Barrier(TimePoint deadline) override {
    RETURN_IF_ERROR(state_->error.Get());
    std::fill(parts_.begin(), parts_.end(), absl::Span<std::byte>());
    std::fill(same_.begin(), same_.end(), absl::Span<const std::byte>());
    return Run(OpKind::kBarrier, same_, parts_, deadline);
  }

  void Abort(const std::string& reason) override {
    if (!state_->error.Get().ok()) return;
    state_->Interrupt(absl::AbortedError(reason));
    if (mesh_ == nullptr) return;
    mesh_->Notify(*state_,
                  absl::AbortedError(absl::StrCat("group ", group_.name, ": ", group_.Name(rank()),
                                                  " aborted: ", reason)));
  }

  // Posts the first receives; before the first operation.
  absl::Status Start() {
    for (int from = 0; from < size(); ++from) {
      for (size_t slot = 0; slot < 2 && from != rank(); ++slot) RETURN_IF_ERROR(Post(from, slot));
    }
    return absl::OkStatus();
  }

 private:
  // Keeps the error and frees the peers.
  absl::Status Fail(const absl::Status& error) {
    absl::Status first = state_->error.Set(error);
    if (mesh_ != nullptr) mesh_->Notify(*state_, first);
    return first;
  }

  // Each rank sends each other one piece a round and receives one from it, as long as there are
  // any. Own entries are done already.
  absl::Status Run(OpKind kind, absl::Span<const absl::Span<const std::byte>> send,
                   absl::Span<const absl::Span<std::byte>> recv, TimePoint deadline) {
    bool more = size() > 1;
    for (int64_t round = 0; more; ++round) {
      more = false;
      size_t offset = round * state_->piece;
      for (int step = 1; step < size(); ++step) {
        int to = (rank() + step) % size();
        if (round >= Pieces(send[to].size(), state_->piece)) continue;
        RETURN_IF_ERROR(SendPiece(kind, to, send[to], offset, deadline));
      }
      for (int step = 1; step < size(); ++step) {
        int from = (rank() + size() - step) % size();
        if (round >= Pieces(recv[from].size(), state_->piece)) continue;
        absl::Status status = ReceivePiece(kind, from, recv[from], offset, deadline);
        if (absl::IsDeadlineExceeded(status)) return Late(kind, step, round, recv);
        RETURN_IF_ERROR(status);
      }
      for (int r = 0; r < size(); ++r) {
        int64_t pieces =
            std::max(Pieces(send[r].size(), state_->piece), Pieces(recv[r].size(), state_->piece));
        if (r != rank() && round + 1 < pieces) more = true;
      }
    }
    return absl::OkStatus();
  }

  absl::Status SendPiece(OpKind kind, int to, absl::Span<const std::byte> whole, size_t offset,
                         TimePoint deadline) {
    GlooLane& lane = state_->out[to];
    size_t slot = lane.pieces % 2;
    if (lane.pieces >= 2) {
      absl::Status status = Wait(to, deadline, [&](std::chrono::milliseconds timeout) {
        return lane.buffers[slot]->waitSend(nullptr, timeout);
      });
      if (absl::IsDeadlineExceeded(status)) return Fail(Missing(group_, kind, {&to, 1}));
      RETURN_IF_ERROR(status);
    }
    GlooPiece header{kind, static_cast<uint32_t>(rank()), lane.pieces++,
                     static_cast<int64_t>(whole.size()),
                     static_cast<int64_t>(std::min(state_->piece, whole.size() - offset))};
    std::byte* memory = lane.memory[slot].data();
    std::memcpy(memory, &header, sizeof(header));
    CopyBytes(memory + sizeof(header), whole.data() + offset, header.bytes);
    return Guard(to, [&] {
      lane.buffers[slot]->send(to, slot, 0, sizeof(header) + static_cast<size_t>(header.bytes));
    });
  }

  // DEADLINE_EXCEEDED is not yet a failure of the communicator: Late makes it one.
  absl::Status ReceivePiece(OpKind kind, int from, absl::Span<std::byte> whole, size_t offset,
                            TimePoint deadline) {
    GlooLane& lane = state_->in[from];
    size_t slot = lane.pieces % 2;
    RETURN_IF_ERROR(Wait(from, deadline, [&](std::chrono::milliseconds timeout) {
      return lane.buffers[slot]->waitRecv(nullptr, timeout);
    }));
    GlooPiece header;
    const std::byte* memory = lane.memory[slot].data();
    std::memcpy(&header, memory, sizeof(header));
    if (header.from != static_cast<uint32_t>(from) || header.piece != lane.pieces) {
      return Fail(absl::InternalError(absl::StrCat(
          "group ", group_.name, ": ", group_.Name(from), "'s connection brought piece ",
          header.piece, " of place ", header.from, ", expected ", lane.pieces)));
    }
    if (header.kind != kind) return Fail(KindMismatch(group_, kind, from, header.kind));
    if (header.total != static_cast<int64_t>(whole.size())) {
      return Fail(SizeMismatch(group_, kind, from, header.total, whole.size()));
    }
    int64_t expected = std::min(state_->piece, whole.size() - offset);
    if (header.bytes != expected)
      return Fail(SizeMismatch(group_, kind, from, header.bytes, expected));
    CopyBytes(whole.data() + offset, memory + sizeof(header), header.bytes);
    ++lane.pieces;
    return Post(from, slot);
  }

  absl::Status Post(int from, size_t slot) {
    return Guard(from, [&] { state_->in[from].buffers[slot]->recv(from, slot); });
  }

  // Names all whose piece of this round is not here. `step`: of the rank that was waited for.
  absl::Status Late(OpKind kind, int step, int64_t round,
                    absl::Span<const absl::Span<std::byte>> recv) {
    std::vector<int> missing = {(rank() + size() - step) % size()};
    while (++step < size()) {
      int from = (rank() + size() - step) % size();
      if (round >= Pieces(recv[from].size(), state_->piece)) continue;
      GlooLane& lane = state_->in[from];
      bool came = false;
      try {
        came = lane.buffers[lane.pieces % 2]->waitRecv(nullptr, std::chrono::milliseconds(0));
      } catch (const std::exception&) {
        // Not there.
      }
      if (!came) missing.push_back(from);
    }
    std::sort(missing.begin(), missing.end());
    return Fail(Missing(group_, kind, missing));
  }

  // wait(timeout): true when done, false when interrupted; throws at the timeout or when the
  // connection breaks.
  template <typename F>
  absl::Status Wait(int place, TimePoint deadline, F wait) {
    RETURN_IF_ERROR(state_->error.Get());
    auto timeout = std::clamp<std::chrono::milliseconds>(
        std::chrono::ceil<std::chrono::milliseconds>(deadline - clock_->Now()),
        std::chrono::milliseconds(0), std::chrono::hours(24));
    try {
      if (wait(timeout)) return absl::OkStatus();
    } catch (const std::exception& error) {
      if (absl::Status known = state_->error.Get(); !known.ok()) return known;
      if (clock_->Now() >= deadline) return absl::DeadlineExceededError("");
      return Fail(mesh_->ReasonOfLoss(state_, place, error.what()));
    }
    return state_->error.Get();
  }

  template <typename F>
  absl::Status Guard(int place, F call) {
    try {
      call();
    } catch (const std::exception& error) {
      return Fail(mesh_->ReasonOfLoss(state_, place, error.what()));
    }
    return absl::OkStatus();
  }

  const std::shared_ptr<GlooMesh> mesh_;
  const std::unique_ptr<GlooGroup> owned_;
  GlooGroup* const state_;
  const Group& group_;
  const Clock* const clock_;
  std::vector<absl::Span<std::byte>> parts_;
  std::vector<absl::Span<const std::byte>> same_;
};

class GlooFactory : public CommunicatorFactory {
 public:
  explicit GlooFactory(const GlooOptions& options) : options_(options) {}

  absl::StatusOr<std::string> Rendezvous() override {
    std::string address = options_.address;
    if (address.empty() == options_.interface.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("Gloo listens on an address or an interface: address is '", address,
                       "', interface is '", options_.interface, "'"));
    }
    if (address.empty()) {
      ASSIGN_OR_RETURN(address, AddressOfInterface(options_.interface));
    }
    IgnoreSigpipe();
    ASSIGN_OR_RETURN(listener_, ListenTcp(address));
    try {
      gloo::transport::tcp::attr attributes(address.c_str());
      device_ = gloo::transport::tcp::CreateDevice(attributes);
    } catch (const std::exception& error) {
      return absl::UnavailableError(absl::StrCat("Gloo on ", address, ": ", error.what()));
    }
    return absl::StrCat("tcp:", listener_.endpoint);
  }

  absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> Connect(
      const Peers& peers, absl::Span<const GroupSpec> specs, TimePoint deadline) override {
    if (!listener_.fd.valid()) {
      return absl::FailedPreconditionError("Connect of Gloo without Rendezvous before");
    }
    TcpListener listener = std::move(listener_);
    std::vector<std::unique_ptr<GlooGroup>> alone;
    std::vector<std::unique_ptr<GlooGroup>> meshed;
    for (const GroupSpec& spec : specs) {
      ASSIGN_OR_RETURN(std::unique_ptr<GlooGroup> state, Prepare(peers, spec));
      (state->group.size() == 1 ? alone : meshed).push_back(std::move(state));
    }
    std::shared_ptr<GlooMesh> mesh;
    if (!meshed.empty()) {
      ASSIGN_OR_RETURN(mesh, GlooMesh::Connect(device_, listener, peers, std::move(meshed),
                                               deadline, options_.clock));
    }
    std::vector<std::unique_ptr<Communicator>> communicators;
    size_t next_alone = 0;
    size_t next_meshed = 0;
    for (const GroupSpec& spec : specs) {
      if (spec.ranks.size() == 1) {
        communicators.push_back(std::make_unique<GlooCommunicator>(
            nullptr, std::move(alone[next_alone++]), nullptr, options_.clock));
        continue;
      }
      auto made = std::make_unique<GlooCommunicator>(
          mesh, nullptr, mesh->groups()[next_meshed++].get(), options_.clock);
      RETURN_IF_ERROR(made->Start());
      communicators.push_back(std::move(made));
    }
    for (auto& communicator : communicators) RETURN_IF_ERROR(communicator->Barrier(deadline));
    return communicators;
  }

 private:
  static void IgnoreSigpipe() {
    struct sigaction current = {};
    if (sigaction(SIGPIPE, nullptr, &current) == 0 && current.sa_handler == SIG_DFL) {
      signal(SIGPIPE, SIG_IGN);
    }
  }

  absl::StatusOr<std::unique_ptr<GlooGroup>> Prepare(const Peers& peers, const GroupSpec& spec) {
    auto state = std::make_unique<GlooGroup>();
    ASSIGN_OR_RETURN(state->group,
                     MakeGroup(spec, peers.rank, static_cast<int>(peers.rendezvous.size())));
    state->piece = std::clamp<int64_t>(spec.max_bytes, 1, options_.max_piece_bytes);
    state->description =
        absl::StrCat(spec.name, " of ranks ", absl::StrJoin(spec.ranks, ","), ", at most ",
                     spec.max_bytes, " bytes in pieces of ", state->piece);
    return state;
  }

  const GlooOptions options_;
  TcpListener listener_;
  std::shared_ptr<gloo::transport::Device> device_;
};

}  // namespace

std::unique_ptr<CommunicatorFactory> MakeGlooFactory(const GlooOptions& options) {
  return std::make_unique<GlooFactory>(options);
}

}  // namespace whalepod
