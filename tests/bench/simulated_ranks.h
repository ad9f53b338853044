// All ranks of a deployment in one process, without execution: each has a connection and an Attach
// stream of its own, does what bring-up asks, answers steps at once and sends heartbeats.
#pragma once

#include <cstdint>

namespace whalepod {

struct SimulatedRanksOptions {
  int port = 0;  // of the coordinator's ControlService on this machine
  int ranks = 0, tp = 1;
  uint32_t slots = 0;  // of a DP group
};

// Runs until every stream has ended; the exit status of the process.
int RunSimulatedRanks(const SimulatedRanksOptions& options);

}  // namespace whalepod
