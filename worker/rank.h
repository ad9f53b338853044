// One rank from its plan part to its last step: what the control stream drives, and what tests
// drive in-process. Owns the arenas, the weights, the KV pool, the executor and the communicators.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "whalepod/v1/control.pb.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"
#include "worker/comm/communicator.h"

namespace whalepod {

// Calls come in this order, from one thread: SetPlan, Load, Connect, Run*. Abort may come from any
// thread at any time; after it every call returns its reason.
class Rank {
 public:
  struct Options {
    Backend* backend = nullptr;            // not owned, outlives the rank
    CommunicatorFactory* comms = nullptr;  // not owned; may be null for a world of one
    const Clock* clock = Clock::Real();
  };
  static std::unique_ptr<Rank> Create(const Options& options);
  virtual ~Rank() = default;

  // Checks the part's hash and the Merkle root, and that this rank can execute it.
  virtual absl::Status SetPlan(v1::PlanPart part) = 0;

  // Maps the arenas of the ledger and reads every slice. `progress` (done, total bytes) is called
  // from loader threads. Returns the actual bytes of each ledger item.
  using Progress = std::function<void(int64_t, int64_t)>;
  virtual absl::StatusOr<std::vector<v1::LedgerItem>> Load(const Progress& progress) = 0;

  // Makes the communicators of this rank's groups.
  virtual absl::Status Connect(const CommunicatorFactory::Peers& peers, TimePoint deadline) = 0;

  virtual absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) = 0;

  virtual void Abort(const std::string& reason) = 0;
};

}  // namespace whalepod
