#include "coordinator/cli/grpc_target.h"

#include <grpcpp/grpcpp.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "coordinator/cli/client.h"

namespace whalepod {
namespace {

// One answer.
class Answer final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  Answer(const LoadClock& clock, LoadRecord* record) : clock_(clock), record_(record) {}

  // To be called once the call is begun; this may go when it has returned.
  absl::Status Read() {
    StartRead(&response_);
    StartCall();
    std::unique_lock lock(mu_);
    ended_.wait(lock, [this] { return status_.has_value(); });
    return *status_;
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.tokens().tokens_size() > 0) record_->chunks.push_back(clock_.Now());
    if (response_.has_finished() && response_.finished().choice() == 0) {
      const v1::Usage& usage = response_.finished().usage();
      record_->input_tokens = usage.prompt_tokens();
      record_->output_tokens = usage.completion_tokens();
      record_->counted_by_server = true;
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    std::lock_guard lock(mu_);
    status_ = FromGrpc(status);
    ended_.notify_one();
  }

 private:
  const LoadClock& clock_;
  LoadRecord* const record_;
  v1::GenerateResponse response_;
  std::mutex mu_;
  std::condition_variable ended_;
  std::optional<absl::Status> status_;
};

}  // namespace

GrpcTarget::GrpcTarget(std::shared_ptr<grpc::Channel> channel)
    : stub_(v1::InferenceService::NewStub(std::move(channel))) {}

void GrpcTarget::Run(const v1::GenerateRequest& request, const LoadClock& clock,
                     LoadRecord* record) {
  grpc::ClientContext context;
  Answer answer(clock, record);
  stub_->async()->Generate(&context, &request, &answer);
  absl::Status status = answer.Read();
  if (status.ok() && (record->chunks.empty() || !record->counted_by_server)) {
    status = absl::InternalError("a request ended without a token, or without its usage");
  }
  if (status.ok()) return;
  record->failure = absl::StatusCodeToString(status.code());
  record->message = std::string(status.message());
}

}  // namespace whalepod
