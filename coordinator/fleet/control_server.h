// ControlService over gRPC: one stream a worker, all events to one Fleet.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/fleet/fleet.h"

namespace whalepod {

class ControlServer {
 public:
  // Listens on `host`:`port` (0: any free one). The fleet outlives the server. UNAVAILABLE if the
  // port is in use. A stream that says no Hello within `hello_limit` ends with DEADLINE_EXCEEDED.
  static absl::StatusOr<std::unique_ptr<ControlServer>> Start(
      const std::string& host, int port, Fleet* fleet,
      std::chrono::milliseconds hello_limit = std::chrono::seconds(10));
  // Ends all streams.
  virtual ~ControlServer() = default;
  virtual int port() const = 0;
};

}  // namespace whalepod
