// What gRPC and HTTP share of jobs: one validation, two encodings.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/api/job_backend.h"
#include "coordinator/api/transfer_room.h"
#include "coordinator/api/work_pool.h"
#include "coordinator/jobs/job_store.h"
#include "whalepod/v1/jobs.pb.h"

namespace whalepod {

// What a batch is made of over HTTP, besides what it shares with jobs.
struct BatchOrigin {
  std::string endpoint;       // that all lines must ask for; empty: any
  std::string input_file_id;  // empty: none
};

// Thread-safe. Outlives the servers that use it.
class JobApi {
 public:
  // What is wrong with a request, as far as is known.
  using CheckFn = std::function<absl::Status(const v1::GenerateRequest& request)>;

  // store, backend: null if the deployment has none, which all is refused for then. Outlive this.
  JobApi(JobStore* store, JobBackend* backend, CheckFn check);

  // FAILED_PRECONDITION, with the options to set, if there is none.
  absl::StatusOr<JobStore*> store() const;
  // Checks a job and stores it. INVALID_ARGUMENT names the field; errors of the store. Lines of a
  // batch are not refused: what is wrong with one is its answer.
  absl::StatusOr<v1::Job> Submit(const std::string& tenant, const v1::SubmitJobRequest& request,
                                 const BatchOrigin& origin = {});

  // JobBackend::Watch.
  absl::StatusOr<std::shared_ptr<ResumableStream>> WatchItem(
      const std::string& tenant, const v1::WatchJobItemRequest& request);

  // What files and texts of more than kMostBody take their share of before they are read.
  TransferRoom& transfers() { return transfers_; }

  // Runs `work` on a thread that may wait for the disk. RESOURCE_EXHAUSTED if too many wait.
  absl::Status Run(std::function<void()> work);
  // The same for what there are few of, and must go on.
  void RunAlways(std::function<void()> work);
  // Runs what may take seconds, one after the other, while others run. RESOURCE_EXHAUSTED likewise.
  absl::Status RunLong(std::function<void()> work);

 private:
  absl::StatusOr<v1::Job> Make(const std::string& tenant, const v1::SubmitJobRequest& request,
                               const BatchOrigin& origin);

  JobStore* const store_;
  JobBackend* const backend_;
  const CheckFn check_;
  TransferRoom transfers_;
  std::atomic<int> waiting_{0};  // given to Run, and not begun
  WorkPool pool_;                // last: tasks use the rest
  WorkPool long_pool_;           // its tasks use the pool
};

}  // namespace whalepod
