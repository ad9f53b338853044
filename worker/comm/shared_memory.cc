#include "worker/comm/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/available_memory.h"
#include "base/status.h"
#include "worker/comm/group.h"
#include "worker/comm/shm_region.h"
#include "worker/comm/unix_socket.h"

namespace whalepod {
namespace {

constexpr absl::string_view kScheme = "unix:";

// A group on its way to a communicator.
struct Pending {
  Group group;
  int64_t max_bytes = 0;
  std::string description;      // what all members must agree on
  size_t outbox = 0;            // chosen by the leader, the group's first rank
  UniqueFd memory;              // memfd
  std::vector<UniqueFd> peers;  // by place; leader: all others, else only the leader's

  bool leads() const { return group.rank == 0; }
  bool complete() const {
    int connected = 0;
    for (const UniqueFd& peer : peers) connected += peer.valid() ? 1 : 0;
    return connected == group.size() - 1;
  }
};

absl::StatusOr<UniqueFd> MakeMemory(const Pending& pending) {
  size_t bytes = ShmRegion::Bytes(pending.group.size(), pending.outbox);
  // Asked first: reserving more than there is would bring the OOM killer, not an error.
  int64_t available = AvailableMemory();
  if (available >= 0 && bytes > static_cast<size_t>(available)) {
    return absl::ResourceExhaustedError(absl::StrCat("group ", pending.group.name, " needs ", bytes,
                                                     " bytes of shared memory, ", available,
                                                     " are available"));
  }
  UniqueFd memory(memfd_create("whalepod-comm", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid()) return ErrnoStatus(errno, "memfd_create");
  // Reserved now: else a full machine would show as SIGBUS in the middle of a step.
  if (ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0 ||
      fallocate(memory.get(), 0, 0, static_cast<off_t>(bytes)) != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("group ", pending.group.name, ": ", bytes,
                     " bytes of shared memory: ", std::strerror(errno)));
  }
  if (fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(errno, "sealing shared memory");
  }
  return memory;
}

absl::StatusOr<std::unique_ptr<ShmRegion>> MapRegion(const Pending& pending) {
  size_t bytes = ShmRegion::Bytes(pending.group.size(), pending.outbox);
  struct stat status;
  if (fstat(pending.memory.get(), &status) != 0) return ErrnoStatus(errno, "fstat shared memory");
  if (static_cast<size_t>(status.st_size) != bytes) {
    return absl::InternalError(absl::StrCat("group ", pending.group.name, ": shared memory has ",
                                            status.st_size, " bytes, expected ", bytes));
  }
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, pending.memory.get(), 0);
  if (base == MAP_FAILED) return ErrnoStatus(errno, absl::StrCat("mapping ", bytes, " bytes"));
  return std::make_unique<ShmRegion>(static_cast<std::byte*>(base), pending.group.size(),
                                     pending.outbox, [base, bytes] { munmap(base, bytes); });
}

class SharedMemoryFactory : public CommunicatorFactory {
 public:
  explicit SharedMemoryFactory(const SharedMemoryOptions& options) : options_(options) {}

  absl::StatusOr<std::string> Rendezvous() override {
    ASSIGN_OR_RETURN(listener_, ListenUnix());
    return absl::StrCat(kScheme, listener_.name);
  }

  absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> Connect(
      const Peers& peers, absl::Span<const GroupSpec> specs, TimePoint deadline) override {
    if (!listener_.fd.valid()) {
      return absl::FailedPreconditionError("Connect of shared memory without Rendezvous before");
    }
    // Taken over: the socket closes when this call ends, and the memory is never made twice.
    UnixListener listener = std::move(listener_);
    session_ = peers.session;
    std::vector<Pending> groups;
    for (const GroupSpec& spec : specs) {
      ASSIGN_OR_RETURN(Pending pending, Prepare(peers, spec));
      groups.push_back(std::move(pending));
    }
    // Members introduce themselves before anybody waits: leaders that are members of each other's
    // groups would else wait in a circle.
    for (Pending& pending : groups) {
      if (!pending.leads()) RETURN_IF_ERROR(Introduce(peers, &pending, deadline));
    }
    if (absl::Status error = ServeLed(listener.fd.get(), absl::MakeSpan(groups), deadline);
        !error.ok()) {
      TellMembers(groups, error);
      return error;
    }
    std::vector<std::unique_ptr<Communicator>> communicators;
    for (Pending& pending : groups) {
      if (!pending.leads()) RETURN_IF_ERROR(ReceiveMemory(&pending, deadline));
      ASSIGN_OR_RETURN(std::unique_ptr<Communicator> made, Finish(peers, std::move(pending)));
      communicators.push_back(std::move(made));
    }
    for (auto& communicator : communicators) RETURN_IF_ERROR(communicator->Barrier(deadline));
    return communicators;
  }

 private:
  absl::StatusOr<Pending> Prepare(const Peers& peers, const GroupSpec& spec) {
    Pending pending;
    ASSIGN_OR_RETURN(pending.group,
                     MakeGroup(spec, peers.rank, static_cast<int>(peers.rendezvous.size())));
    for (int rank : spec.ranks) {
      if (peers.hosts.empty() || peers.hosts[rank] == peers.hosts[peers.rank]) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("group ", spec.name, " in shared memory: rank ", peers.rank, " is on host ",
                       peers.hosts[peers.rank], ", rank ", rank, " on ", peers.hosts[rank]));
    }
    pending.max_bytes = spec.max_bytes;
    pending.description = absl::StrCat(spec.name, " of ranks ", absl::StrJoin(spec.ranks, ","),
                                       ", at most ", spec.max_bytes, " bytes");
    pending.peers.resize(pending.group.size());
    if (pending.leads()) {
      pending.outbox = static_cast<size_t>(SharedMemoryOutboxBytes(
          pending.group.size(), std::min(spec.max_bytes, options_.max_outbox_bytes)));
      ASSIGN_OR_RETURN(pending.memory, MakeMemory(pending));
    }
    return pending;
  }

  // The hello: session, place, then the member's view of the group.
  absl::Status Introduce(const Peers& peers, Pending* pending, TimePoint deadline) {
    int leader = pending->group.ranks[0];
    absl::string_view name = peers.rendezvous[leader];
    if (!absl::ConsumePrefix(&name, kScheme)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "rendezvous of rank ", leader, " is no shared memory's: ", peers.rendezvous[leader]));
    }
    std::string context = absl::StrCat("group ", pending->group.name, ": ", pending->group.Name(0));
    absl::StatusOr<UniqueFd> socket = DialUnix(std::string(name), deadline, options_.clock);
    if (!socket.ok()) return Annotate(socket.status(), context);
    RETURN_IF_ERROR(Annotate(
        SendUnix(socket->get(),
                 absl::StrCat(peers.session, "\n", pending->group.rank, "\n", pending->description),
                 -1),
        context));
    pending->peers[0] = *std::move(socket);
    return absl::OkStatus();
  }

  // Gives the memory of each led group to all its members.
  absl::Status ServeLed(int listener, absl::Span<Pending> groups, TimePoint deadline) {
    std::vector<UniqueFd> strangers;  // connected, hello not read
    while (true) {
      const Pending* waiting = nullptr;
      for (const Pending& pending : groups) {
        if (pending.leads() && !pending.complete()) waiting = &pending;
      }
      if (waiting == nullptr) return absl::OkStatus();
      std::vector<int> fds = {listener};
      for (const UniqueFd& stranger : strangers) fds.push_back(stranger.get());
      ASSIGN_OR_RETURN(bool ready, PollReadable(fds, deadline, options_.clock));
      if (!ready) return MissingMembers(*waiting);
      ASSIGN_OR_RETURN(UniqueFd accepted, AcceptUnix(listener));
      if (accepted.valid()) strangers.push_back(std::move(accepted));
      for (UniqueFd& stranger : strangers) {
        absl::StatusOr<UnixMessage> hello = ReceiveUnix(stranger.get());
        if (hello.ok()) {
          RETURN_IF_ERROR(Welcome(hello->text, groups, &stranger));
        } else if (HungUp(stranger.get())) {
          stranger.Reset();
        }
      }
      std::erase_if(strangers, [](const UniqueFd& fd) { return !fd.valid(); });
    }
  }

  // Answers one hello. Takes the socket, or closes it if it is none of this epoch's.
  absl::Status Welcome(const std::string& hello, absl::Span<Pending> groups, UniqueFd* socket) {
    UniqueFd member = std::move(*socket);
    std::vector<std::string> fields = absl::StrSplit(hello, absl::MaxSplits('\n', 2));
    int place = 0;
    if (fields.size() != 3 || fields[0] != session_ || !absl::SimpleAtoi(fields[1], &place)) {
      return absl::OkStatus();
    }
    std::string name = std::string(fields[2].substr(0, fields[2].find(" of ranks ")));
    for (Pending& pending : groups) {
      if (!pending.leads() || pending.group.name != name) continue;
      if (pending.description != fields[2] || place <= 0 || place >= pending.group.size()) {
        std::string both = absl::StrCat(pending.group.Name(0), " has group ", pending.description,
                                        "; another rank has ", fields[2]);
        SendUnix(member.get(), absl::StrCat("no\n", both), -1).IgnoreError();
        return absl::InvalidArgumentError(both);
      }
      RETURN_IF_ERROR(Annotate(
          SendUnix(member.get(), absl::StrCat("yes\n", pending.outbox), pending.memory.get()),
          absl::StrCat("group ", pending.group.name, ": ", pending.group.Name(place))));
      pending.peers[place] = std::move(member);
      return absl::OkStatus();
    }
    std::string none = absl::StrCat("no such group here: ", fields[2]);
    SendUnix(member.get(), absl::StrCat("no\n", none), -1).IgnoreError();
    return absl::InvalidArgumentError(none);
  }

  // Members that have their memory already learn why there will be no group.
  static void TellMembers(absl::Span<const Pending> groups, const absl::Status& error) {
    for (const Pending& pending : groups) {
      if (!pending.leads()) continue;
      absl::StatusOr<std::unique_ptr<ShmRegion>> region = MapRegion(pending);
      if (region.ok()) (*region)->Poison(error);
    }
  }

  absl::Status MissingMembers(const Pending& pending) {
    std::vector<int> missing;
    for (int place = 1; place < pending.group.size(); ++place) {
      if (!pending.peers[place].valid()) missing.push_back(place);
    }
    return absl::DeadlineExceededError(absl::StrCat("connecting group ", pending.group.name, ": ",
                                                    pending.group.Names(missing),
                                                    " did not come in time"));
  }

  absl::Status ReceiveMemory(Pending* pending, TimePoint deadline) {
    std::string context =
        absl::StrCat("connecting group ", pending->group.name, ": ", pending->group.Name(0));
    int socket = pending->peers[0].get();
    ASSIGN_OR_RETURN(bool ready, PollReadable({&socket, 1}, deadline, options_.clock));
    if (!ready) {
      return absl::DeadlineExceededError(absl::StrCat(context, " did not come in time"));
    }
    absl::StatusOr<UnixMessage> answer = ReceiveUnix(socket);
    if (!answer.ok()) return Annotate(answer.status(), context);
    absl::string_view text = answer->text;
    if (absl::ConsumePrefix(&text, "no\n")) return absl::InvalidArgumentError(text);
    if (!absl::ConsumePrefix(&text, "yes\n") || !absl::SimpleAtoi(text, &pending->outbox) ||
        !answer->fd.valid()) {
      return absl::InternalError(absl::StrCat(context, " answered ", answer->text));
    }
    pending->memory = std::move(answer->fd);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Finish(const Peers& peers, Pending pending) {
    ASSIGN_OR_RETURN(std::unique_ptr<ShmRegion> region, MapRegion(pending));
    auto sockets = std::make_shared<std::vector<UniqueFd>>(std::move(pending.peers));
    LivenessProbe probe = [sockets] {
      for (size_t place = 0; place < sockets->size(); ++place) {
        if ((*sockets)[place].valid() && HungUp((*sockets)[place].get())) {
          return static_cast<int>(place);
        }
      }
      return -1;
    };
    return MakeShmCommunicator(std::move(pending.group), std::move(region), options_.yields,
                               std::move(probe), options_.clock);
  }

  const SharedMemoryOptions options_;
  UnixListener listener_;
  std::string session_;
};

}  // namespace

std::unique_ptr<CommunicatorFactory> MakeSharedMemoryFactory(const SharedMemoryOptions& options) {
  return std::make_unique<SharedMemoryFactory>(options);
}

}  // namespace whalepod
