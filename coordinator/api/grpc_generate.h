// InferenceService.Generate over gRPC: a stream's flow control around a Generation.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>

#include "coordinator/api/frontend.h"
#include "coordinator/api/generation.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {

// Owns itself until gRPC is done with it. gRPC may run reactions at the same time and on any
// thread: all Start* and Finish calls are the generation's, made under its lock.
class GrpcGenerate final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                           public ResponseWriter {
 public:
  GrpcGenerate(grpc::CallbackServerContext* context, const Frontend& frontend)
      : context_(context),
        generation_(std::make_shared<Generation>(this, frontend.clock(),
                                                 frontend.NewRecord(Transport::kGrpc))) {}

  // Begin or Refuse must be called on it: until then the request and the context are there, also
  // when the client cancels.
  const std::shared_ptr<Generation>& generation() const { return generation_; }

  bool Write(const v1::GenerateResponse& message, bool last) override;
  void Finish(const absl::Status& status) override;
  void Abandon() override { context_->TryCancel(); }

  void OnWriteDone(bool ok) override { generation_->OnWritten(ok); }
  void OnCancel() override { generation_->Cancel(); }
  void OnDone() override;

 private:
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<Generation> generation_;
};

}  // namespace whalepod
