// A whalepod-worker that breaks at a chosen moment: it kills itself, stops itself, or shuts its
// connections while it is in a phase. Used by fault tests only.
//
//   fault_worker HOST:PORT RANK HOST_NAME FAULT PHASE
//   FAULT: none, kill (SIGKILL), stop (SIGSTOP), close (every TCP connection is shut)
//   PHASE: planned, loaded, connected, warmed (while it works towards it), step (in the second
//   step)
#include <dirent.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "build_hash.h"
#include "kernels/cpu/cpu_backend.h"
#include "worker/comm/select.h"
#include "worker/control/attach_client.h"
#include "worker/rank.h"

namespace whalepod {
namespace {

void CloseTcpConnections() {
  DIR* dir = opendir("/proc/self/fd");
  while (const dirent* entry = readdir(dir)) {
    const int fd = std::atoi(entry->d_name);
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) == 0 &&
        (peer.ss_family == AF_INET || peer.ss_family == AF_INET6)) {
      shutdown(fd, SHUT_RDWR);
    }
  }
  closedir(dir);
}

void Break(const std::string& fault) {
  if (fault == "kill") raise(SIGKILL);
  if (fault == "stop") raise(SIGSTOP);
  if (fault == "close") CloseTcpConnections();
}

// Breaks as it enters the call that leads to the phase.
class FaultyRank : public Rank {
 public:
  FaultyRank(std::unique_ptr<Rank> rank, std::string fault, std::string phase)
      : rank_(std::move(rank)), fault_(std::move(fault)), phase_(std::move(phase)) {}

  absl::Status SetPlan(v1::PlanPart part) override {
    BreakAt("planned");
    return rank_->SetPlan(std::move(part));
  }
  absl::StatusOr<std::vector<v1::LedgerItem>> Load(const Progress& progress) override {
    BreakAt("loaded");
    return rank_->Load(progress);
  }
  absl::Status Connect(const CommunicatorFactory::Peers& peers, TimePoint deadline) override {
    BreakAt("connected");
    return rank_->Connect(peers, deadline);
  }
  absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) override {
    BreakAt(step.step() == 1 ? "warmed" : "step");
    return rank_->Run(step, deadline);
  }
  void Abort(const std::string& reason) override { rank_->Abort(reason); }

 private:
  void BreakAt(const char* phase) {
    if (phase_ == phase) Break(fault_);
  }
  const std::unique_ptr<Rank> rank_;
  const std::string fault_, phase_;
};

int Main(char** argv) {
  const int rank_number = std::atoi(argv[2]);
  InitLogging(absl::StrCat("rank ", rank_number));
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  signal(SIGPIPE, SIG_IGN);
  const std::unique_ptr<Backend> backend = CreateCpuBackend({.threads = 1}).value();
  const std::unique_ptr<CommunicatorFactory> comms = MakeAutoCommunicatorFactory({});
  FaultyRank rank(Rank::Create({.backend = backend.get(), .comms = comms.get()}), argv[4], argv[5]);
  AttachOptions attach;
  attach.coordinator = argv[1];
  attach.hello.set_protocol_version(v1::PROTOCOL_VERSION_CURRENT);
  attach.hello.set_build_hash(WHALEPOD_BUILD_HASH);
  attach.hello.set_instruction_path(backend->InstructionPath());
  attach.hello.set_worker(absl::StrCat(argv[3], "-", rank_number));
  attach.hello.set_incarnation(absl::StrCat("pid", getpid()));
  attach.hello.set_host(argv[3]);
  attach.hello.set_preferred_rank(rank_number);
  attach.hello.set_memory_bytes(int64_t{8} << 30);
  attach.hello.set_pid(getpid());
  attach.rank = &rank;
  attach.comms = comms.get();
  const AttachOutcome outcome = RunAttach(attach);
  spdlog::info("exit {}: {}", static_cast<int>(outcome.exit), outcome.reason);
  if (!outcome.settled) _exit(static_cast<int>(outcome.exit));
  return static_cast<int>(outcome.exit);
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return argc == 6 ? whalepod::Main(argv) : 2; }
