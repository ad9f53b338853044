// OpenAI's API over HTTP/1.1: chat and text completions (whole or as server-sent events), models,
// files and batches, tokenize, health.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/job_api.h"
#include "coordinator/api/limits.h"

namespace whalepod {

class HttpServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;  // 0: any free one
    int threads = 2;
    int most_connections = 4096;  // more are closed at once
    // A connection that is idle, or sends its request more slowly, is closed. Longer than clients
    // keep theirs, or they would send into a closing one.
    std::chrono::milliseconds read_timeout = std::chrono::seconds(75);
    // An upload that is too large for that must not pause for so long.
    std::chrono::milliseconds upload_pause = kUploadPause;
    // A client that takes nothing for so long is cancelled.
    std::chrono::milliseconds write_timeout = std::chrono::seconds(30);
    // A comment is sent in a stream that has been silent for so long.
    std::chrono::milliseconds heartbeat = std::chrono::seconds(15);
  };

  // Listens. `frontend` and `jobs` outlive the server; without `jobs` there are no files and
  // batches. UNAVAILABLE if the port is in use.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           Frontend* frontend,
                                                           JobApi* jobs = nullptr);
  // Ends all connections at once.
  virtual ~HttpServer() = default;
  virtual int port() const = 0;
  // Takes no new connections, waits up to `grace` for requests to end, then breaks off.
  virtual void Shutdown(std::chrono::milliseconds grace) = 0;
};

}  // namespace whalepod
