// What ranks answer to steps, without a model: sequences enter, sample a token in each step and
// leave as the protocol says (docs/life-of-a-request.md). Cheap, so that a benchmark of the
// coordinator measures the coordinator; tests/coordinator/sched/model_worker.h is the one that
// checks.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/sched/scheduler.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

class StepModel {
 public:
  StepModel(uint32_t groups, uint32_t slots) : groups_(groups) {
    for (Group& group : groups_) group.slots.resize(slots);
  }

  // Steps in order. The answer of each DP group.
  std::vector<GroupResult> Run(const v1::StepPlan& plan);

 private:
  struct Slot {
    uint64_t sequence = 0;  // 0: free
    uint32_t prompt_len = 0, known = 0, computed = 0, blocks = 0;
    bool decoding = false;
  };
  struct Group {
    std::vector<Slot> slots;
    uint32_t live_sequences = 0, live_blocks = 0;
  };

  std::vector<Group> groups_;
};

}  // namespace whalepod
