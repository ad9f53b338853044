#include "coordinator/api/job_submission.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/caller.h"
#include "coordinator/api/errors.h"

namespace whalepod {

JobSubmission* JobSubmission::Begin(grpc::CallbackServerContext* context, const Frontend& frontend,
                                    JobApi* jobs, v1::SubmitJobResponse* response) {
  const std::shared_ptr<JobSubmission> call(new JobSubmission(context, jobs, response));
  call->self_ = call;
  absl::StatusOr<std::string> tenant = CallerOf(frontend, *context);
  const absl::Status refused = tenant.ok() ? jobs->store().status() : tenant.status();
  if (!refused.ok()) {
    call->Finish(ToGrpcStatus(refused));
    return call.get();
  }
  call->tenant_ = *std::move(tenant);
  call->Read();
  return call.get();
}

void JobSubmission::Read() {
  alarm_.emplace();
  alarm_->Set(std::min(until_, std::chrono::system_clock::now() + kUploadPause),
              [weak = weak_from_this()](bool fired) {
                if (!fired) return;
                const std::shared_ptr<JobSubmission> late = weak.lock();
                if (late == nullptr) return;
                std::lock_guard lock(late->mu_);
                if (!late->done_) late->context_->TryCancel();
              });
  StartRead(&message_);
}

void JobSubmission::OnReadDone(bool ok) {
  alarm_.reset();
  if (!ok) {  // the client has left, or forgotten it
    return End(BadField("last", "MISSING", "not set", "set in the last message"));
  }
  const bool last = message_.last();
  absl::Status status = Take();
  if (status.ok() && last) status = Submit();  // after which this may be gone
  if (!status.ok()) return End(status);
  if (!last) Read();
}

void JobSubmission::End(const absl::Status& status) {
  request_.Clear();
  share_.reset();
  Finish(ToGrpcStatus(status));
}

void JobSubmission::OnDone() {
  {
    std::lock_guard lock(mu_);
    done_ = true;
  }
  const std::shared_ptr<JobSubmission> last = std::move(self_);
}

absl::Status JobSubmission::Take() {
  if (bytes_ == 0) {
    RETURN_IF_ERROR(TakeFirst());
  } else if (message_.has_job() || message_.jsonl_bytes() != 0) {
    return BadField("job", "CONTRADICTION", "set again", "set in the first message only");
  }
  std::string& text = *request_.mutable_jsonl();
  if (message_.jsonl().size() > bytes_ - text.size()) {
    return BadField("jsonl", "TOO_LONG",
                    absl::StrCat(text.size() + message_.jsonl().size(), " bytes"),
                    absl::StrCat("jsonl_bytes, which is ", bytes_));
  }
  text += message_.jsonl();
  return absl::OkStatus();
}

absl::Status JobSubmission::TakeFirst() {
  if (message_.job().work_case() != v1::SubmitJobRequest::WORK_NOT_SET) {
    return BadField("job.work", "CONTRADICTION", "set", "not set: the text comes in pieces");
  }
  bytes_ = message_.jsonl_bytes();
  if (bytes_ == 0) return BadField("jsonl_bytes", "MISSING", "0", "the bytes of the text");
  if (bytes_ > kMostUpload) {
    return BadField("jsonl_bytes", "TOO_LONG", absl::StrCat(bytes_),
                    absl::StrCat("at most ", kMostUpload));
  }
  ASSIGN_OR_RETURN(share_, jobs_.transfers().Take(tenant_, bytes_));
  request_ = std::move(*message_.mutable_job());
  request_.mutable_jsonl()->reserve(bytes_);
  return absl::OkStatus();
}

absl::Status JobSubmission::Submit() {
  if (request_.jsonl().size() != bytes_) {
    return BadField("jsonl", "MISSING", absl::StrCat(request_.jsonl().size(), " bytes"),
                    absl::StrCat("jsonl_bytes, which is ", bytes_));
  }
  return jobs_.RunLong([this] {
    if (context_->IsCancelled()) return End(absl::CancelledError("the client has left"));
    absl::StatusOr<v1::Job> job = jobs_.Submit(tenant_, request_);
    if (!job.ok()) return End(job.status());
    *response_->mutable_job() = *std::move(job);
    End(absl::OkStatus());
  });
}

}  // namespace whalepod
