// InferenceService, JobService, health and reflection over gRPC.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/job_api.h"
#include "coordinator/api/resumable_streams.h"

namespace whalepod {

class ApiServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;  // 0: any free one
  };

  // Listens; health says NOT_SERVING until SetServing. `frontend`, `jobs` and `streams` outlive the
  // server; without `jobs` there is no JobService, without `streams` nothing is resumable.
  // UNAVAILABLE if the port is in use.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Start(const Options& options,
                                                          Frontend* frontend,
                                                          JobApi* jobs = nullptr,
                                                          ResumableStreams* streams = nullptr);
  // Ends all calls at once.
  virtual ~ApiServer() = default;

  virtual int port() const = 0;
  // What health says.
  virtual void SetServing(bool serving) = 0;
  // Waits up to `grace` for calls to end, then cancels them.
  virtual void Shutdown(std::chrono::milliseconds grace) = 0;
};

}  // namespace whalepod
