// InferenceService, health and reflection over gRPC.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/api/validate.h"
#include "coordinator/sched/engine.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

class ApiServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;  // 0: any free one
    // Fills GetStatus's answer; called from gRPC's threads.
    std::function<void(v1::GetStatusResponse*)> status;
    const Clock* clock = Clock::Real();
  };

  // Listens; health says NOT_SERVING and Generate UNAVAILABLE until SetReady. `model` answers
  // GetModel in the meantime. UNAVAILABLE if the port is in use.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Start(Options options, ServedModel model);
  // Ends all calls at once.
  virtual ~ApiServer() = default;

  virtual int port() const = 0;
  // From now on requests go to `engine`, which outlives the server.
  virtual void SetReady(ServedModel model, Engine* engine) = 0;
  // From now on requests end with `why`; those with the engine go on.
  virtual void SetNotReady(const absl::Status& why) = 0;
  // Waits up to `grace` for calls to end, then cancels them.
  virtual void Shutdown(std::chrono::milliseconds grace) = 0;
};

}  // namespace whalepod
