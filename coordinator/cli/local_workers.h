// The worker processes of a deployment on this machine alone.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/log.h"

namespace whalepod {

// Starts, watches and ends them. They end with this process too, however it ends. Not thread-safe;
// the thread that starts them must live as long as they do (the kernel ends them with it).
class LocalWorkers {
 public:
  struct Options {
    std::string binary;       // of whalepod-worker
    std::string coordinator;  // "host:port"
    int ranks = 1;
    int threads = 1;  // of each
    LogFormat log_format = LogFormat::kText;
  };
  // A process that has ended by itself.
  struct Death {
    int rank = 0;
    pid_t pid = 0;
    // "rank 2 (worker process 4711) was killed by signal 9 (Killed)".
    std::string text;
  };

  LocalWorkers() = default;
  LocalWorkers(const LocalWorkers&) = delete;
  LocalWorkers& operator=(const LocalWorkers&) = delete;
  // Kills what is left and waits for it.
  ~LocalWorkers();

  // One process a rank. NOT_FOUND names a missing binary; whatever was started before an error ends
  // with this object.
  absl::Status Start(const Options& options);
  // By rank; 0: ended.
  const std::vector<pid_t>& pids() const { return pids_; }
  // Those that ended since the last call. Doesn't wait.
  std::vector<Death> Reap();
  // Waits until all have ended; false when `timeout` passes first.
  bool Wait(std::chrono::milliseconds timeout);

 private:
  std::vector<pid_t> pids_;
};

// whalepod-worker in the folder of the running program.
absl::StatusOr<std::string> WorkerBinary();

}  // namespace whalepod
