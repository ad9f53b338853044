// Answers jobs' items by the engine, through the same frontend as clients' requests.
#pragma once

#include <functional>
#include <memory>

#include "coordinator/api/frontend.h"
#include "coordinator/api/work_pool.h"
#include "coordinator/jobs/job_runner.h"

namespace whalepod {

class JobBackend final : public ItemBackend {
 public:
  // `frontend` outlives this. now_seconds: of the wall clock, for `created` of an answer.
  JobBackend(Frontend* frontend, std::function<int64_t()> now_seconds);

  // Takes the job's priority where the request has none, and its tenant's share. A request without
  // a seed takes one from the job's id and its index, so that one begun anew is the same.
  std::shared_ptr<ItemCall> Start(const PendingItem& item, Done done) override;

 private:
  class Call;

  Frontend* const frontend_;
  const std::function<int64_t()> now_seconds_;
  WorkPool pool_;  // generations are told what was taken from here, not from the engine's thread
};

}  // namespace whalepod
