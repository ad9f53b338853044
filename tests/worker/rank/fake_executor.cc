#include "fake_executor.h"

#include "base/status.h"

namespace whalepod {

thread_local FakeExecutor* FakeExecutor::latest = nullptr;

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(Options options) {
  auto executor = std::make_unique<FakeExecutor>(std::move(options));
  FakeExecutor::latest = executor.get();
  return executor;
}

absl::StatusOr<v1::StepResult> FakeExecutor::Run(const v1::StepPlan& step, TimePoint deadline) {
  for (Communicator* communicator : options.communicators) {
    RETURN_IF_ERROR(communicator->Barrier(deadline));
  }
  v1::StepResult result;
  result.set_step(step.step());
  return result;
}

}  // namespace whalepod
