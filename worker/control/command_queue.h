// What the stream's reader leaves for the thread that executes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "whalepod/v1/control.pb.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

struct PlanReceived {
  uint64_t epoch = 0;
  v1::PlanPart part;
};
using Command =
    std::variant<PlanReceived, v1::LoadCommand, v1::ConnectCommand, v1::StepPlan, v1::DrainCommand>;

// Thread-safe. One thread pushes, one pops.
class CommandQueue {
 public:
  // Steps that may wait behind the one that runs.
  static constexpr int kMaxSteps = 2;

  // FAILED_PRECONDITION for a step too many: the coordinator runs further ahead than agreed.
  absl::Status Push(Command command);
  // Waits for the next; nothing once the queue is closed, whatever is still in it.
  std::optional<Command> Pop();
  void Close();

 private:
  std::mutex mu_;
  std::condition_variable changed_;
  std::deque<Command> commands_;
  int steps_ = 0;
  bool closed_ = false;
};

// Puts a part together from its chunks.
class PlanAssembler {
 public:
  // The part, once the last chunk is there. DATA_LOSS if chunks of two epochs or ranks mix, or the
  // bytes are not a PlanPart of that rank.
  absl::StatusOr<std::optional<PlanReceived>> Add(const v1::PlanChunk& chunk);

 private:
  bool started_ = false;
  uint64_t epoch_ = 0;
  uint32_t rank_ = 0;
  std::string data_;
};

}  // namespace whalepod
