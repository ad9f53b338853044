// Answers jobs' items by the engine, through the same frontend as clients' requests, and tells who
// watches them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/item_watches.h"
#include "coordinator/api/resumable_stream.h"
#include "coordinator/api/work_pool.h"
#include "coordinator/jobs/job_runner.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {

class JobBackend final : public ItemBackend {
 public:
  // `frontend` and `store` outlive this. now_seconds: of the wall clock, for `created` of an
  // answer.
  JobBackend(Frontend* frontend, JobStore* store, std::function<int64_t()> now_seconds);

  // Takes the job's priority where the request has none, and its tenant's share. A request without
  // a seed takes one from the job's id and its index, so that one begun anew is the same.
  std::shared_ptr<ItemCall> Start(const PendingItem& item, Done done) override;

  // One item's answer, to be read while it is generated or once it has ended; waits for the disk.
  // Errors as ItemWatches::Open's. How the stream ends: see JobService.WatchJobItem.
  absl::StatusOr<std::shared_ptr<ResumableStream>> Watch(const std::string& tenant,
                                                         const ItemId& id);

 private:
  class Call;

  void Later(std::function<void()> work);

  Frontend* const frontend_;
  const std::function<int64_t()> now_seconds_;
  ItemWatches watches_;
  std::map<ItemId, Call*> answering_;  // since they have started; the pool's thread's own
  WorkPool pool_;  // generations are told what was taken from here, not from the engine's thread
};

}  // namespace whalepod
