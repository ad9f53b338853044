// A resumable Generate, or its resumption, over gRPC: a reader of a ResumableStream.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/resumable_stream.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {

// Holds itself until gRPC is done with it. gRPC's calls are made without the lock; one party at a
// time makes them, the one that has set `busy_`.
class GrpcResume final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                         public StreamReader,
                         public std::enable_shared_from_this<GrpcResume> {
 public:
  // `context` is the call's, `clock` outlives this.
  GrpcResume(grpc::CallbackServerContext* context, const Clock* clock)
      : context_(context), clock_(clock) {}
  static std::shared_ptr<GrpcResume> Make(grpc::CallbackServerContext* context, const Clock* clock);

  // One of the two, once. A stream that nobody reads any more goes on.
  void Begin(std::shared_ptr<ResumableStream> stream, uint32_t from_token);
  void Refuse(const absl::Status& status);

  void OnMore() override;
  void CheckStall(TimePoint since) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // With busy_ set by the caller: writes what there is, or ends the call.
  void Go();
  void End(const grpc::Status& status);

  grpc::CallbackServerContext* const context_;
  const Clock* const clock_;
  std::shared_ptr<GrpcResume> self_;
  std::mutex mu_;
  std::shared_ptr<ResumableStream> stream_;
  bool busy_ = false;                         // a write is under way, or about to be
  bool more_ = false;                         // OnMore came meanwhile
  bool cancelled_ = false;                    // the client has left
  bool ended_ = false;                        // gRPC has been told
  bool done_ = false;                         // gRPC has let go: the context is gone
  TimePoint write_since_ = TimePoint::max();  // of a write under way
  ResumableStream::Place place_;              // of whoever is busy, and message_
  v1::GenerateResponse message_;
};

// A call of `context` that reads the stream that `find` gives its caller, from a token on. `run`
// has `find` called on a thread that may wait for the disk, or says why not.
GrpcResume* ReadStream(
    grpc::CallbackServerContext* context, const Frontend& frontend, uint32_t from_token,
    const std::function<absl::Status(std::function<void()>)>& run,
    std::function<absl::StatusOr<std::shared_ptr<ResumableStream>>(const std::string& caller)>
        find);

}  // namespace whalepod
