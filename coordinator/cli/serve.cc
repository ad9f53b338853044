// whalepod serve: the coordinator and all its workers on this machine, until interrupted.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/local_workers.h"
#include "coordinator/options.h"
#include "coordinator/plan/planner.h"
#include "coordinator/server.h"

namespace whalepod {
namespace {

// How often signals aside anything is looked at.
constexpr timespec kTick = {.tv_sec = 0, .tv_nsec = 100'000'000};
// How long workers may take to leave: after a drain, and after a failure, when some may be stuck.
constexpr std::chrono::seconds kLeave(5);
constexpr std::chrono::seconds kLeaveFailed(1);

// Where clients of this machine reach a server that listens on `host`.
std::string LocalAddress(const std::string& host, int port) {
  return HostPort(host == "0.0.0.0" || host == "::" ? "127.0.0.1" : host, port);
}

// Shows how far the deployment is, once a change.
class ProgressPrinter {
 public:
  ProgressPrinter(const std::string& endpoint, std::string http, std::string layout, int ranks)
      : client_(endpoint),
        endpoint_(endpoint),
        http_(std::move(http)),
        layout_(std::move(layout)),
        ranks_(ranks) {}

  void Update() {
    if (ready_) return;
    const absl::StatusOr<v1::GetStatusResponse> status = client_.GetStatus();
    if (!status.ok()) return;
    ready_ = status->state() == "ready";
    Show(ready_ ? absl::StrCat("ready: ", layout_, " on ", ranks_, " ranks, HTTP on ", http_,
                               ", clients on ", endpoint_)
                : Describe(*status));
  }

 private:
  static std::string Describe(const v1::GetStatusResponse& status) {
    int64_t done = 0;
    int64_t total = 0;
    double rate = 0;
    const v1::RankStatus* slowest = nullptr;
    for (const v1::RankStatus& rank : status.ranks()) {
      done += rank.load_bytes_done();
      total += rank.load_bytes_total();
      rate += rank.load_bytes_per_second();
      const bool behind = rank.load_bytes_done() < rank.load_bytes_total();
      if (behind && (slowest == nullptr || rank.load_bytes_done() < slowest->load_bytes_done())) {
        slowest = &rank;
      }
    }
    if (slowest == nullptr) return absl::StrCat(status.state(), ": ", status.message());
    return absl::StrCat("loading: ", FormatBytes(done), " of ", FormatBytes(total), " (",
                        100 * done / total, " %), ", FormatBytes(static_cast<int64_t>(rate)),
                        "/s, rank ", slowest->rank(), " last");
  }

  void Show(const std::string& line) {
    if (line == shown_) return;
    shown_ = line;
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }

  Client client_;
  const std::string endpoint_, http_;
  const std::string layout_;
  const int ranks_;
  std::string shown_;
  bool ready_ = false;
};

sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM, SIGCHLD}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Until `ended`: signals stop the server, a worker's death fails it.
void Watch(const sigset_t& signals, const std::atomic<bool>& ended, CoordinatorServer& server,
           LocalWorkers& workers, ProgressPrinter& progress) {
  bool stopping = false;
  while (!ended) {
    const int signal = sigtimedwait(&signals, nullptr, &kTick);
    if (signal == SIGINT || signal == SIGTERM) {
      std::printf("%s\n", stopping ? "stopping now" : "stopping: running requests may end");
      std::fflush(stdout);
      stopping = true;
      server.Stop();
    }
    for (const LocalWorkers::Death& death : workers.Reap()) {
      // While stopping, workers leave one after the other, and the fleet knows which should not.
      if (!stopping) server.Fail(absl::UnavailableError(death.text));
    }
    if (!stopping) progress.Update();
  }
}

absl::Status Run(const ServeOptions& options) {
  const sigset_t signals = BlockSignals();
  ASSIGN_OR_RETURN(const std::string binary, WorkerBinary());
  ASSIGN_OR_RETURN(const std::unique_ptr<CoordinatorServer> server,
                   CoordinatorServer::Start(options));
  LocalWorkers workers;
  RETURN_IF_ERROR(
      workers.Start({.binary = binary,
                     .coordinator = LocalAddress(options.host, server->control_port()),
                     .ranks = server->ranks(),
                     .threads = static_cast<int>(server->plan().runtime().threads_per_rank()),
                     .log_format = options.log_format}));
  ProgressPrinter progress(LocalAddress(options.host, server->grpc_port()),
                           LocalAddress(options.host, server->http_port()),
                           LayoutName(server->plan().layout()), server->ranks());
  absl::Status end;
  std::atomic<bool> ended{false};
  std::thread running([&] {
    end = server->Run();
    ended = true;
  });
  Watch(signals, ended, *server, workers, progress);
  running.join();
  if (!workers.Wait(end.ok() ? kLeave : kLeaveFailed))
    spdlog::warn("workers that did not leave are killed");
  return end;
}

int Serve(const ServeOptions& options) {
  InitLogging("coordinator", options.log_format);
  const absl::Status end = Run(options);
  return end.ok() ? 0 : ReportError(end);
}

}  // namespace

void AddServe(CLI::App& app, CommandRun& run) {
  const auto options = std::make_shared<ServeOptions>();
  options->control_port = 0;  // only own workers dial it
  CLI::App* command =
      app.add_subcommand("serve", "Serve a checkpoint with workers on this machine");
  AddServeOptions(*command, *options);
  command->callback([options, &run] { run = [options] { return Serve(*options); }; });
}

}  // namespace whalepod
