// JobService over gRPC.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>

#include "coordinator/api/frontend.h"
#include "coordinator/api/job_api.h"
#include "whalepod/v1/jobs.grpc.pb.h"

namespace whalepod {

class JobService final : public v1::JobService::CallbackService {
 public:
  // Both outlive the server that this is registered with.
  JobService(Frontend* frontend, JobApi* jobs) : frontend_(*frontend), jobs_(*jobs) {}

  grpc::ServerUnaryReactor* SubmitJob(grpc::CallbackServerContext* context,
                                      const v1::SubmitJobRequest* request,
                                      v1::SubmitJobResponse* response) override;
  grpc::ServerReadReactor<v1::SubmitLargeJobRequest>* SubmitLargeJob(
      grpc::CallbackServerContext* context, v1::SubmitJobResponse* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const v1::GetJobRequest* request,
                                   v1::GetJobResponse* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const v1::ListJobsRequest* request,
                                     v1::ListJobsResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* WatchJobItem(
      grpc::CallbackServerContext* context, const v1::WatchJobItemRequest* request) override;
  grpc::ServerUnaryReactor* GetJobResults(grpc::CallbackServerContext* context,
                                          const v1::GetJobResultsRequest* request,
                                          v1::GetJobResultsResponse* response) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const v1::CancelJobRequest* request,
                                      v1::CancelJobResponse* response) override;

 private:
  using Work = std::function<absl::Status(JobStore& store, const std::string& tenant)>;

  // Ends a call with what `work` says, on a thread that may wait for the disk.
  grpc::ServerUnaryReactor* Later(grpc::CallbackServerContext* context, Work work);

  Frontend& frontend_;
  JobApi& jobs_;
};

}  // namespace whalepod
