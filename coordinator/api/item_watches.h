// The items of jobs that are read while they are answered: JobService.WatchJobItem.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/api/resumable_stream.h"
#include "coordinator/api/work_pool.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {

using ItemId = std::pair<std::string, uint32_t>;  // job, index

// Thread-safe. All readers of an item have one stream. Its tokens come from whoever answers the
// item, its end from the store alone: nobody is told of what is not on disk.
class ItemWatches {
 public:
  // Both outlive this.
  ItemWatches(JobStore* store, const Clock* clock);
  ~ItemWatches();

  // The item's stream, over already if it has ended; `made`: nobody had it before. Waits for the
  // disk. Errors as JobStore::Item's; RESOURCE_EXHAUSTED: many items are watched.
  absl::StatusOr<std::shared_ptr<ResumableStream>> Open(const std::string& tenant, const ItemId& id,
                                                        bool* made);
  // The stream of an item that is watched; else null.
  std::shared_ptr<ResumableStream> Find(const ItemId& id);

 private:
  struct Watch {
    std::string tenant;
    std::weak_ptr<ResumableStream> stream;
  };

  absl::StatusOr<std::shared_ptr<ResumableStream>> FindOrAdd(const std::string& tenant,
                                                             const ItemId& id, bool* made);
  // Has the store say how the items of a job ended that are watched.
  void LookAfter(const std::string& job_id);
  // Those of a job.
  std::map<ItemId, Watch> OfJob(const std::string& job_id);
  void Look(const std::string& job_id);
  // Ends the stream if the item has.
  void Settle(uint32_t index, const absl::StatusOr<v1::JobItem>& item, ResumableStream* stream);

  JobStore* const store_;
  const Clock* const clock_;
  int listener_ = -1;
  std::mutex mu_;
  std::map<ItemId, Watch> watches_;
  std::set<std::string> looking_;  // jobs that will be looked at
  WorkPool pool_;                  // waits for the disk; last: its tasks use the rest
};

// How the stream of an item with so many answers ends.
v1::JournalEnd SeveralAnswers(uint32_t choices);

}  // namespace whalepod
