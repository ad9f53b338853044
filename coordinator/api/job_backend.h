// Answers jobs' items by the engine, through the same frontend as clients' requests, and tells who
// watches them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/api/frontend.h"
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
  ~JobBackend() override;

  // Takes the job's priority where the request has none, and its tenant's share. A request without
  // a seed takes one from the job's id and its index, so that one begun anew is the same.
  std::shared_ptr<ItemCall> Start(const PendingItem& item, Done done) override;

  // One item's answer, to be read while it is generated or once it has ended; waits for the disk.
  // Errors as JobStore::Item's; RESOURCE_EXHAUSTED: many are read at once. What the stream ends
  // with: see JobService.WatchJobItem.
  absl::StatusOr<std::shared_ptr<ResumableStream>> Watch(const std::string& tenant,
                                                         const std::string& job_id, uint32_t index);

 private:
  class Call;
  using ItemId = std::pair<std::string, uint32_t>;  // job, index
  // Of an item that has not started to be answered.
  struct Watcher {
    std::string tenant;
    std::weak_ptr<ResumableStream> stream;
  };

  absl::Status Admit(const std::shared_ptr<ResumableStream>& stream);
  void Later(std::function<void()> work);
  // On the pool's thread:
  void Await(const ItemId& id, const Watcher& watcher);
  // Those that wait for items of a job, some of which may have ended.
  void LookAfter(const std::string& job_id);
  // True if it needs to wait no more.
  bool Served(const ItemId& id, const Watcher& watcher);

  Frontend* const frontend_;
  JobStore* const store_;
  const std::function<int64_t()> now_seconds_;
  int listener_ = -1;
  std::mutex mu_;
  std::vector<std::weak_ptr<ResumableStream>> watched_;  // all that are read
  // The pool's thread's own.
  std::map<ItemId, Call*> answering_;  // since they have started
  std::multimap<ItemId, Watcher> waiting_;
  WorkPool pool_;  // generations are told what was taken from here, not from the engine's thread
};

}  // namespace whalepod
