#include "worker/control/command_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace whalepod {

absl::Status CommandQueue::Push(Command command) {
  std::lock_guard<std::mutex> lock(mu_);
  if (std::holds_alternative<v1::StepPlan>(command)) {
    if (steps_ == kMaxSteps) {
      return absl::FailedPreconditionError(
          absl::StrCat("step ", std::get<v1::StepPlan>(command).step(), " came while ", steps_,
                       " steps wait: at most ", kMaxSteps, " may"));
    }
    ++steps_;
  }
  commands_.push_back(std::move(command));
  changed_.notify_one();
  return absl::OkStatus();
}

std::optional<Command> CommandQueue::Pop() {
  std::unique_lock<std::mutex> lock(mu_);
  changed_.wait(lock, [this] { return closed_ || !commands_.empty(); });
  if (closed_) return std::nullopt;
  Command command = std::move(commands_.front());
  commands_.pop_front();
  if (std::holds_alternative<v1::StepPlan>(command)) --steps_;
  return command;
}

void CommandQueue::Close() {
  std::lock_guard<std::mutex> lock(mu_);
  closed_ = true;
  changed_.notify_one();
}

absl::StatusOr<std::optional<PlanReceived>> PlanAssembler::Add(const v1::PlanChunk& chunk) {
  if (!started_) {
    started_ = true;
    epoch_ = chunk.epoch();
    rank_ = chunk.rank();
  }
  if (chunk.epoch() != epoch_ || chunk.rank() != rank_) {
    return absl::DataLossError(absl::StrCat("a plan chunk of epoch ", chunk.epoch(), ", rank ",
                                            chunk.rank(), " among those of epoch ", epoch_,
                                            ", rank ", rank_));
  }
  data_ += chunk.data();
  if (!chunk.last()) return std::optional<PlanReceived>();
  PlanReceived received{.epoch = epoch_};
  if (!received.part.ParseFromString(data_)) {
    return absl::DataLossError(
        absl::StrCat("the plan part of ", data_.size(), " bytes is garbled"));
  }
  if (received.part.part().rank() != rank_) {
    return absl::DataLossError(absl::StrCat(
        "the plan part is of rank ", received.part.part().rank(), ", the chunks say ", rank_));
  }
  *this = PlanAssembler();
  return std::optional<PlanReceived>(std::move(received));
}

}  // namespace whalepod
