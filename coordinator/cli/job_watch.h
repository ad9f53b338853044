// Follows a job over broken connections and restarts.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "base/clock.h"
#include "whalepod/v1/jobs.grpc.pb.h"

namespace whalepod {

// Calls `on_items` with each item that ends after the first `request.from`, once, until the job has
// ended. Dials again when the deployment is gone; UNAVAILABLE, with how far it came, if that takes
// longer than `wait`.
absl::Status WatchToEnd(v1::JobService::StubInterface& stub, v1::WatchJobRequest request,
                        Duration wait,
                        const std::function<void(const v1::WatchJobResponse&)>& on_items);

}  // namespace whalepod
