// A deployment's InferenceService as the target of a load.
#pragma once

#include <memory>

#include "coordinator/cli/bench/load.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {

class GrpcTarget final : public LoadTarget {
 public:
  explicit GrpcTarget(std::shared_ptr<grpc::Channel> channel);

  // Messages are read where gRPC receives them: the thread that called sleeps until the end. So a
  // token costs the load no switch to a thread of its own.
  void Run(const v1::GenerateRequest& request, const LoadClock& clock, LoadRecord* record) override;

 private:
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace whalepod
