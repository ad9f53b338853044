// whalepod-coordinator: plans a checkpoint, waits for workers, serves clients.
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <thread>

#include "CLI/CLI.hpp"
#include "base/log.h"
#include "coordinator/options.h"
#include "coordinator/server.h"

namespace {

constexpr int kBadUsage = 2;

int Main(int argc, char** argv) {
  whalepod::ServeOptions options;
  CLI::App app("Plans a checkpoint over workers and serves it.", "whalepod-coordinator");
  whalepod::AddServeOptions(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kBadUsage;
  }

  // Before any thread exists: signals are for one thread that waits for them.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  whalepod::InitLogging("coordinator", options.log_format);

  auto server = whalepod::CoordinatorServer::Start(options);
  if (!server.ok()) {
    spdlog::error("{}", server.status().ToString());
    return 1;
  }
  std::printf("whalepod-coordinator: clients on port %d, workers on port %d, HTTP on port %d\n",
              (*server)->grpc_port(), (*server)->control_port(), (*server)->http_port());
  std::fflush(stdout);
  const pid_t self = getpid();
  std::thread waiter([&server, &signals] {
    int signal = 0;
    while (sigwait(&signals, &signal) == 0 && signal != SIGUSR1) {
      spdlog::info("signal {}: stopping", signal);
      (*server)->Stop();
    }
  });
  const absl::Status end = (*server)->Run();
  kill(self, SIGUSR1);  // frees the waiter
  waiter.join();
  if (!end.ok()) spdlog::error("{}", end.ToString());
  server->reset();
  return end.ok() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) { return Main(argc, argv); }
