#include "coordinator/cli/local_workers.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status.h"

extern char** environ;

namespace whalepod {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(10);

// In a process group of its own, so that Ctrl-C reaches the coordinator alone and it can drain;
// with no signal blocked.
absl::StatusOr<pid_t> Spawn(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], nullptr, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return ErrnoStatus(error, command[0]);
  return pid;
}

std::string Ending(int status) {
  if (WIFSIGNALED(status)) {
    return absl::StrCat("was killed by signal ", WTERMSIG(status), " (",
                        strsignal(WTERMSIG(status)), ")");
  }
  return absl::StrCat("exited with status ", WEXITSTATUS(status));
}

}  // namespace

LocalWorkers::~LocalWorkers() {
  for (const pid_t pid : pids_) {
    if (pid == 0) continue;
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
}

absl::Status LocalWorkers::Start(const Options& options) {
  if (access(options.binary.c_str(), X_OK) != 0) return ErrnoStatus(errno, options.binary);
  for (int rank = 0; rank < options.ranks; ++rank) {
    ASSIGN_OR_RETURN(const pid_t pid,
                     Spawn({options.binary, "--coordinator", options.coordinator, "--rank",
                            absl::StrCat(rank), "--threads", absl::StrCat(options.threads),
                            "--host-ranks", absl::StrCat(options.ranks), "--log-format",
                            options.log_format == LogFormat::kJson ? "json" : "text",
                            "--die-with-parent", absl::StrCat(getpid())}));
    pids_.push_back(pid);
  }
  return absl::OkStatus();
}

std::vector<LocalWorkers::Death> LocalWorkers::Reap() {
  std::vector<Death> deaths;
  for (size_t rank = 0; rank < pids_.size(); ++rank) {
    int status = 0;
    if (pids_[rank] == 0 || waitpid(pids_[rank], &status, WNOHANG) != pids_[rank]) continue;
    deaths.push_back({.rank = static_cast<int>(rank),
                      .pid = pids_[rank],
                      .text = absl::StrCat("rank ", rank, " (worker process ", pids_[rank], ") ",
                                           Ending(status))});
    pids_[rank] = 0;
  }
  return deaths;
}

bool LocalWorkers::Wait(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  for (;;) {
    Reap();
    if (std::all_of(pids_.begin(), pids_.end(), [](pid_t pid) { return pid == 0; })) return true;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
}

absl::StatusOr<std::string> WorkerBinary() {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return ErrnoStatus(error.value(), "/proc/self/exe");
  return (self.parent_path() / "whalepod-worker").string();
}

}  // namespace whalepod
