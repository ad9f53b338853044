// A worker's end of the control stream: dials the coordinator, says hello, and then does what it is
// told until it is told to leave. docs/life-of-a-request.md has the order of messages.
#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "whalepod/v1/control.pb.h"
#include "worker/comm/communicator.h"
#include "worker/rank.h"

namespace whalepod {

// What the process exits with.
enum class WorkerExit {
  kDrained = 0,
  kAborted = 3,  // the coordinator ended the epoch, or this rank failed and said so
  kLost = 4,     // the stream ended without a word, or never was
};

struct AttachOptions {
  std::string coordinator;  // "host:port"
  v1::Hello hello;
  Rank* rank = nullptr;                  // not owned
  CommunicatorFactory* comms = nullptr;  // not owned; null: no rendezvous is given
  const Clock* clock = Clock::Real();
  // How long to try to reach a coordinator that isn't there yet.
  Duration dial_timeout = std::chrono::seconds(60);
  // Between heartbeats, and at most between progress reports while loading.
  Duration heartbeat = std::chrono::milliseconds(200);
  // A step that no abort reaches ends after this long; the coordinator notices stalls much sooner.
  Duration step_timeout = std::chrono::minutes(10);
  // After a failure or an abort: how long the coordinator may take to answer, and the executing
  // thread to return.
  Duration grace = std::chrono::seconds(5);
};

struct AttachOutcome {
  WorkerExit exit = WorkerExit::kLost;
  std::string reason;
  // False: a thread still executes and uses `rank`; the process has to end without destroying it.
  bool settled = true;
};

// Returns when the worker should exit. Threads: the caller's reads the stream and never executes;
// one executes; one sends heartbeats.
AttachOutcome RunAttach(const AttachOptions& options);

}  // namespace whalepod
