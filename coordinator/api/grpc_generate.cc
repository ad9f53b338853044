#include "coordinator/api/grpc_generate.h"

#include "coordinator/api/errors.h"

namespace whalepod {

bool GrpcGenerate::Write(const v1::GenerateResponse& message, bool last) {
  if (last) {
    StartWriteAndFinish(&message, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    StartWrite(&message);
  }
  return false;
}

void GrpcGenerate::Finish(const absl::Status& status) {
  grpc::ServerWriteReactor<v1::GenerateResponse>::Finish(ToGrpcStatus(status));
}

void GrpcGenerate::OnDone() {
  // Where the call broke off after its last write, its sequences may still run.
  generation_->Cancel();
  delete this;
}

}  // namespace whalepod
