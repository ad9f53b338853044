// whalepod-worker: one process, one rank. Everything that it computes is decided by the plan part
// it is sent; flags only say where it runs.
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/available_memory.h"
#include "base/log.h"
#include "base/status.h"
#include "build_hash.h"
#include "kernels/cpu/cpu_backend.h"
#include "worker/comm/select.h"
#include "worker/control/attach_client.h"
#include "worker/memory/arena.h"
#include "worker/rank.h"

namespace whalepod {
namespace {

// Bad flags or a machine that can't run this build; other statuses are WorkerExit's.
constexpr int kBadStart = 2;

struct Flags {
  std::string coordinator = "127.0.0.1:50052";
  int rank = -1;
  std::string name;
  std::string host;
  std::string address;
  int threads = 0;
  IsaPath isa = IsaPath::kBest;
  int host_ranks = 1;
  int64_t memory_bytes = 0;
  LogFormat log_format = LogFormat::kText;
  int parent = 0;
};

std::string HostName() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "localhost";
}

// New with every process, so that a restarted worker is not taken for its predecessor.
std::string Incarnation() {
  char bytes[8] = {};
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return absl::StrCat("pid", getpid());
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

// Asks the kernel to end this process with the one that started it; false if that one is gone.
bool FollowParent(int parent) {
  return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

void Declare(CLI::App& app, Flags& flags) {
  const std::map<std::string, IsaPath> paths = {{"best", IsaPath::kBest},
                                                {"portable", IsaPath::kPortable},
                                                {"avx2", IsaPath::kAvx2},
                                                {"avx512", IsaPath::kAvx512}};
  app.add_option("--coordinator", flags.coordinator, "HOST:PORT of the control service")
      ->capture_default_str();
  app.add_option("--rank", flags.rank, "rank to ask for; -1: any")->capture_default_str();
  app.add_option("--name", flags.name, "stable name; default HOST-RANK");
  app.add_option("--host", flags.host, "host as the plan knows it: its ranks share memory");
  app.add_option(
      "--address", flags.address,
      "IP address where ranks of other hosts reach this one; without it, no other hosts");
  app.add_option("--threads", flags.threads, "threads that compute; 0: its share of the processors")
      ->check(CLI::Range(0, 1024));
  app.add_option("--isa", flags.isa, "instruction path: best, portable, avx2 or avx512")
      ->transform(CLI::CheckedTransformer(paths));
  app.add_option("--host-ranks", flags.host_ranks,
                 "ranks on this host: they share its processors and memory")
      ->check(CLI::PositiveNumber);
  app.add_option("--memory-bytes", flags.memory_bytes,
                 "memory of this rank; 0: its share of what is available")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--log-format", flags.log_format, "lines of the log: text or json")
      ->envname("WHALEPOD_LOG_FORMAT")
      ->transform(CLI::CheckedTransformer(LogFormats()));
  app.add_option("--die-with-parent", flags.parent, "process that started this one: end with it");
}

v1::Hello MakeHello(const Flags& flags, Backend& backend) {
  v1::Hello hello;
  hello.set_protocol_version(v1::PROTOCOL_VERSION_CURRENT);
  hello.set_build_hash(WHALEPOD_BUILD_HASH);
  hello.set_instruction_path(backend.InstructionPath());
  hello.set_worker(flags.name);
  hello.set_incarnation(Incarnation());
  hello.set_host(flags.host);
  hello.set_preferred_rank(flags.rank);
  hello.set_memory_bytes(flags.memory_bytes > 0 ? flags.memory_bytes
                                                : AvailableMemory() / flags.host_ranks);
  hello.set_pid(getpid());
  hello.set_threads(backend.Threads());
  hello.set_address(flags.address);
  return hello;
}

int Serve(const Flags& flags) {
  CpuOptions cpu;
  const int processors = static_cast<int>(std::thread::hardware_concurrency());
  cpu.threads = flags.threads > 0 ? flags.threads : std::max(1, processors / flags.host_ranks);
  cpu.isa = flags.isa;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend(cpu);
  if (!backend.ok()) {
    spdlog::error("{}", backend.status().ToString());
    return kBadStart;
  }
  AutoOptions talk;
  talk.gloo.address = flags.address;
  const std::unique_ptr<CommunicatorFactory> comms = MakeAutoCommunicatorFactory(talk);
  const std::unique_ptr<Rank> rank =
      Rank::Create({.backend = backend->get(), .comms = comms.get()});

  AttachOptions attach;
  attach.coordinator = flags.coordinator;
  attach.hello = MakeHello(flags, **backend);
  attach.rank = rank.get();
  attach.comms = comms.get();
  const AttachOutcome outcome = RunAttach(attach);
  const int code = static_cast<int>(outcome.exit);
  if (outcome.exit == WorkerExit::kDrained) {
    spdlog::debug("drained: {}", outcome.reason);
  } else {
    spdlog::error("exit {}: {}", code, outcome.reason);
  }
  // A thread that did not come back still uses the rank: leave without destroying anything.
  if (!outcome.settled) _exit(code);
  return code;
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Runs one rank of a Whalepod deployment");
  app.set_version_flag("--version", std::string(WHALEPOD_BUILD_HASH));
  Declare(app, flags);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadStart;
  }
  if (flags.host.empty()) flags.host = HostName();
  if (flags.name.empty()) {
    flags.name = absl::StrCat(flags.host, "-", flags.rank >= 0 ? flags.rank : getpid());
  }
  InitLogging(flags.rank >= 0 ? absl::StrCat("rank ", flags.rank) : flags.name, flags.log_format);
  if (flags.rank >= 0) SetLogRank(flags.rank);
  if (flags.parent != 0 && !FollowParent(flags.parent)) {
    spdlog::error("process {} that started this one is gone", flags.parent);
    return kBadStart;
  }
  signal(SIGPIPE, SIG_IGN);
  return Serve(flags);
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return whalepod::Main(argc, argv); }
