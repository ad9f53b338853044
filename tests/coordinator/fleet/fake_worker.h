// A worker without a model: dials the coordinator for real and does what the protocol asks, except
// where a test tells it not to.
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/coordinator/sched/model_worker.h"
#include "whalepod/v1/control.grpc.pb.h"

namespace whalepod {

class FakeWorker {
 public:
  struct Options {
    int port = 0;
    v1::Hello hello;
    std::optional<ModelWorker::Config> model;  // absent: answers empty steps only
    int tp = 1;                                // ranks of a DP group
    bool heartbeats = true;
    // Sees each message first; true: handled, the worker does nothing more about it. It may send
    // through the worker.
    std::function<bool(FakeWorker&, const v1::AttachResponse&)> intercept;
  };
  explicit FakeWorker(Options options);
  ~FakeWorker();

  void Send(const v1::AttachRequest& message);
  // Ends the stream from this side, as a process that dies does.
  void Kill();
  void StopHeartbeats() { beating_ = false; }

  // Waits for the stream's end and says how it ended.
  grpc::Status WaitEnd();
  // What the coordinator sent, once WaitEnd has returned.
  std::string abort_reason() const { return abort_reason_; }
  bool drained() const { return drained_; }
  size_t largest_chunk() const { return largest_chunk_; }
  const v1::ConnectCommand& connect() const { return connect_; }
  const v1::PlanPart& part() const { return part_; }
  uint64_t epoch() const { return epoch_; }

  // Default answers, for intercepts that only want to change them.
  static v1::AttachRequest Done(uint64_t epoch, v1::Phase phase);

 private:
  void Run();
  void Beat();
  void OnChunk(const v1::PlanChunk& chunk);
  void OnStep(const v1::StepPlan& step);
  bool Handle(const v1::AttachResponse& message);

  const Options options_;
  std::unique_ptr<ModelWorker> model_;
  grpc::ClientContext context_;
  std::unique_ptr<v1::ControlService::Stub> stub_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AttachRequest, v1::AttachResponse>> stream_;
  std::mutex write_mu_;
  std::mutex mu_;
  std::condition_variable ended_cv_;
  bool ended_ = false;
  grpc::Status end_;
  std::atomic<bool> beating_{true};
  uint64_t epoch_ = 0;
  uint32_t rank_ = 0;
  std::string bytes_;
  v1::PlanPart part_;
  v1::ConnectCommand connect_;
  std::string abort_reason_;
  bool drained_ = false;
  size_t largest_chunk_ = 0;
  std::thread reader_, beater_;
};

}  // namespace whalepod
