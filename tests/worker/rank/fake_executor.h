// An executor that answers without computing, and waits in a barrier where there is a group.
#pragma once

#include "worker/executor.h"

namespace whalepod {

class FakeExecutor : public Executor {
 public:
  explicit FakeExecutor(Options given) : options(std::move(given)) {}
  absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) override;

  int64_t activation_bytes() const override { return 0; }

  const Options options;
  // The latest that Executor::Create made, per thread; owned by its rank.
  static thread_local FakeExecutor* latest;
};

}  // namespace whalepod
