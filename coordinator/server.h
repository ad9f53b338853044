// One deployment from a checkpoint folder to its end: plans, waits for workers, brings them up,
// serves clients, drains.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/api/api_server.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/http_server.h"
#include "coordinator/api/job_api.h"
#include "coordinator/api/job_backend.h"
#include "coordinator/api/resumable_streams.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/fleet/control_server.h"
#include "coordinator/fleet/epoch_store.h"
#include "coordinator/fleet/fleet.h"
#include "coordinator/jobs/job_runner.h"
#include "coordinator/jobs/job_store.h"
#include "coordinator/metrics/serving_metrics.h"
#include "coordinator/options.h"
#include "coordinator/sched/engine.h"
#include "coordinator/streams/stream_store.h"
#include "coordinator/text/model_text.h"
#include "coordinator/usage/usage_store.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

class CoordinatorServer {
 public:
  // Reads the checkpoint, plans (so that what cannot run is refused before anything is started),
  // takes the next epoch and listens on both ports. Nothing is left behind on errors.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(const ServeOptions& options);
  // Run must have returned, if it was called.
  ~CoordinatorServer();

  int http_port() const { return http_->port(); }
  int grpc_port() const { return api_->port(); }
  int control_port() const { return control_->port(); }
  int ranks() const { return options_.ranks(); }
  uint64_t epoch() const { return epoch_; }
  // As made at the start; the hosts are those the workers are on once they have joined.
  const v1::ShardingPlan& plan() const { return plan_; }

  // Brings the workers up and serves until stopped: OK after a drain. Otherwise why the deployment
  // ended: the rank, its worker and phase. Blocks; call it once.
  absl::Status Run();

  // From any thread. Stop lets running requests end (up to the drain timeout); a second Stop, or
  // StopNow, does not.
  void Stop();
  void StopNow();
  // Ends the deployment with `status`, for what only the caller can see (a worker process of its
  // own that died before it dialled).
  void Fail(const absl::Status& status);

 private:
  CoordinatorServer(const ServeOptions& options, Checkpoint checkpoint);

  void LoadText();
  absl::Status OpenUsage();
  absl::Status OpenJobs();
  absl::Status OpenStreams();
  absl::Status Listen();
  absl::Status MakePlanFor(const std::vector<v1::Hello>& hellos);
  absl::Status BringUp();
  absl::Status StartEngine();
  absl::Status Serve();
  absl::Status WindDown(absl::Status end);
  void NoteFailure(const absl::Status& status);
  void FillStatus(v1::GetStatusResponse* status) const;
  ServedModel DescribeModel() const;

  const ServeOptions options_;
  const Checkpoint checkpoint_;
  v1::ShardingPlan plan_;
  ModelText text_;
  uint64_t epoch_ = 0;
  std::unique_ptr<EpochStore> epochs_;
  ServingMetrics metrics_;
  std::unique_ptr<UsageStore> usage_;  // outlives the requests that the engine holds

  mutable std::mutex mu_;
  std::condition_variable changed_;
  int stops_ = 0;
  absl::Status failure_;
  std::unique_ptr<Engine> engine_;  // guarded by mu_ until the deployment is ready

  std::unique_ptr<Fleet> fleet_;
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<Frontend> frontend_;
  std::unique_ptr<JobStore> jobs_;  // null: none are kept
  std::unique_ptr<JobApi> job_api_;
  std::unique_ptr<JobBackend> job_backend_;
  std::unique_ptr<JobRunner> job_runner_;
  std::unique_ptr<StreamStore> stream_store_;  // null: none are kept
  std::unique_ptr<ResumableStreams> streams_;
  std::unique_ptr<ApiServer> api_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace whalepod
