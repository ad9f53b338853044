// Runs steps on one rank: keeps the live sequences, lays out the ragged batch, calls the model's
// forward and the sampler, and answers.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "kernels/ops.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"
#include "worker/comm/communicator.h"
#include "worker/weights/weights.h"

namespace whalepod {

class ForwardObserver;  // worker/model/observer.h

class Executor {
 public:
  // A piece of an arena; sizes are the ledger's.
  struct Memory {
    void* data = nullptr;
    int64_t bytes = 0;
  };
  struct Options {
    const v1::PlanPart* part = nullptr;  // outlives the executor
    Backend* backend = nullptr;
    WeightMap weights;
    Memory kv;
    Memory activations;
    // In the order of part->part().groups(). Empty for a world of one.
    std::vector<Communicator*> communicators;
    ForwardObserver* observer = nullptr;  // a tap for tests; may be null, not owned
    const Clock* clock = Clock::Real();
  };
  // Binds weights and buffers; RESOURCE_EXHAUSTED if the activation arena is smaller than what
  // the forward needs (both numbers).
  static absl::StatusOr<std::unique_ptr<Executor>> Create(Options options);
  virtual ~Executor() = default;

  // FAILED_PRECONDITION for a step that contradicts the state (unknown slot, block out of range,
  // a step number that is not the next): our coordinator is wrong, the epoch is over.
  // After an error every later step returns that error.
  virtual absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) = 0;

  // Bytes of the activation arena that the forward's buffers take: at most the plan's.
  virtual int64_t activation_bytes() const = 0;
};

}  // namespace whalepod
