// A job whose text comes in pieces.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/job_api.h"
#include "coordinator/api/limits.h"
#include "whalepod/v1/jobs.pb.h"

namespace whalepod {

// One SubmitLargeJob call. Lives until gRPC is done with it.
class JobSubmission final : public grpc::ServerReadReactor<v1::SubmitLargeJobRequest>,
                            public std::enable_shared_from_this<JobSubmission> {
 public:
  // frontend, jobs, response: outlive the call.
  static JobSubmission* Begin(grpc::CallbackServerContext* context, const Frontend& frontend,
                              JobApi* jobs, v1::SubmitJobResponse* response);

  void OnReadDone(bool ok) override;
  void OnDone() override;

 private:
  JobSubmission(grpc::CallbackServerContext* context, JobApi* jobs, v1::SubmitJobResponse* response)
      : context_(context), jobs_(*jobs), response_(response) {}
  // Reads on, for so long.
  void Read();
  // Takes in what has been read.
  absl::Status Take();
  absl::Status TakeFirst();
  // Gives back what it took before its client learns the end, and may send the next one.
  void End(const absl::Status& status);
  // All has come: stores the job.
  absl::Status Submit();

  grpc::CallbackServerContext* const context_;
  JobApi& jobs_;
  v1::SubmitJobResponse* const response_;
  std::shared_ptr<JobSubmission> self_;
  std::string tenant_;
  v1::SubmitLargeJobRequest message_;  // read last
  v1::SubmitJobRequest request_;
  uint64_t bytes_ = 0;  // that its text will have; 0 until the first message is there
  TransferRoom::Share share_;
  const std::chrono::system_clock::time_point until_ =
      std::chrono::system_clock::now() + kLongestUpload;
  std::optional<grpc::Alarm> alarm_;  // cancels a call whose next message does not come

  std::mutex mu_;
  bool done_ = false;  // the context may be gone
};

}  // namespace whalepod
