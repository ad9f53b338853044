#include "coordinator/cli/job_submit.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "base/status.h"
#include "coordinator/cli/client.h"

namespace whalepod {
namespace {

constexpr size_t kOneMessage = 3 << 20, kPiece = 1 << 20;  // of the 4 MiB that a message may have

// The server writes the job to disk before it answers.
void SetDeadline(std::chrono::minutes time, grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + time);
}

grpc::Status SubmitPieces(v1::JobService::StubInterface& stub, v1::SubmitJobRequest request,
                          v1::SubmitJobResponse* response) {
  const std::string text = std::move(*request.mutable_jsonl());
  request.clear_work();
  grpc::ClientContext context;
  SetDeadline(std::chrono::minutes(5), &context);
  const auto writer = stub.SubmitLargeJob(&context, response);
  v1::SubmitLargeJobRequest message;
  *message.mutable_job() = std::move(request);
  message.set_jsonl_bytes(text.size());
  bool goes = writer->Write(message);
  message.Clear();
  for (size_t at = 0; goes && at < text.size(); at += kPiece) {
    message.set_jsonl(text.data() + at, std::min(kPiece, text.size() - at));
    message.set_last(at + kPiece >= text.size());
    goes = writer->Write(message);
  }
  if (goes) writer->WritesDone();
  return writer->Finish();
}

}  // namespace

absl::StatusOr<v1::Job> SubmitJob(v1::JobService::StubInterface& stub,
                                  v1::SubmitJobRequest request) {
  v1::SubmitJobResponse response;
  if (request.jsonl().size() > kOneMessage) {
    RETURN_IF_ERROR(FromGrpc(SubmitPieces(stub, std::move(request), &response)));
  } else {
    grpc::ClientContext context;
    SetDeadline(std::chrono::minutes(1), &context);
    RETURN_IF_ERROR(FromGrpc(stub.SubmitJob(&context, request, &response)));
  }
  return std::move(*response.mutable_job());
}

}  // namespace whalepod
