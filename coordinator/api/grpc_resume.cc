#include "coordinator/api/grpc_resume.h"

#include <utility>

#include "coordinator/api/caller.h"
#include "coordinator/api/errors.h"

namespace whalepod {
namespace {

// A client that has left does not see it; one whose server is being shut down is to come back.
grpc::Status Left() { return {grpc::StatusCode::UNAVAILABLE, "the deployment is shutting down"}; }

}  // namespace

std::shared_ptr<GrpcResume> GrpcResume::Make(grpc::CallbackServerContext* context,
                                             const Clock* clock) {
  auto call = std::make_shared<GrpcResume>(context, clock);
  call->self_ = call;
  return call;
}

void GrpcResume::Begin(std::shared_ptr<ResumableStream> stream, uint32_t from_token) {
  {
    std::lock_guard lock(mu_);
    if (ended_) return;
    place_.token = from_token;
    stream_ = stream;
  }
  if (absl::Status status = stream->Attach(shared_from_this()); !status.ok()) Refuse(status);
}

void GrpcResume::Refuse(const absl::Status& status) { End(ToGrpcStatus(status)); }

void GrpcResume::OnMore() {
  {
    std::lock_guard lock(mu_);
    more_ = true;
    if (busy_ || ended_) return;
    busy_ = true;
  }
  Go();
}

// A cancelled write fails, which ends the call.
void GrpcResume::CheckStall(TimePoint since) {
  std::lock_guard lock(mu_);
  if (!done_ && write_since_ < since) context_->TryCancel();
}

void GrpcResume::Go() {
  while (true) {
    {
      std::lock_guard lock(mu_);
      more_ = false;
    }
    absl::Status status;
    switch (stream_->Take(&place_, &message_, &status)) {
      case ResumableStream::Next::kMessage: {
        {
          std::lock_guard lock(mu_);
          write_since_ = clock_->Now();
        }
        return StartWrite(&message_);
      }
      case ResumableStream::Next::kLast: {
        {
          std::lock_guard lock(mu_);
          if (std::exchange(ended_, true)) return;
        }
        return StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
      }
      case ResumableStream::Next::kError:
        return End(ToGrpcStatus(status));
      case ResumableStream::Next::kNothing:
        break;
    }
    bool left = false;
    {
      std::lock_guard lock(mu_);
      if (more_ && !cancelled_) continue;
      busy_ = false;
      left = cancelled_ && !std::exchange(ended_, true);
    }
    if (left) Finish(Left());
    return;
  }
}

void GrpcResume::OnWriteDone(bool ok) {
  bool left = false;
  {
    std::lock_guard lock(mu_);
    write_since_ = TimePoint::max();
    if (ended_) return;
    left = cancelled_ || !ok;
  }
  if (left) return End(Left());
  Go();
}

void GrpcResume::OnCancel() {
  {
    std::lock_guard lock(mu_);
    cancelled_ = true;
    if (busy_ || std::exchange(ended_, true)) return;  // who is busy sees it
  }
  Finish(Left());
}

void GrpcResume::End(const grpc::Status& status) {
  {
    std::lock_guard lock(mu_);
    if (std::exchange(ended_, true)) return;
  }
  Finish(status);
}

void GrpcResume::OnDone() {
  std::shared_ptr<ResumableStream> stream;
  {
    std::lock_guard lock(mu_);
    done_ = true;
    stream = std::move(stream_);
  }
  if (stream != nullptr) stream->Detach(this);
  const std::shared_ptr<GrpcResume> last = std::move(self_);
}

GrpcResume* ReadStream(
    grpc::CallbackServerContext* context, const Frontend& frontend, uint32_t from_token,
    const std::function<absl::Status(std::function<void()>)>& run,
    std::function<absl::StatusOr<std::shared_ptr<ResumableStream>>(const std::string& caller)>
        find) {
  const std::shared_ptr<GrpcResume> call = GrpcResume::Make(context, frontend.clock());
  absl::StatusOr<std::string> caller = CallerOf(frontend, *context);
  absl::Status queued = caller.status();
  if (queued.ok()) {
    queued = run([call, from_token, find = std::move(find), caller = *std::move(caller)] {
      absl::StatusOr<std::shared_ptr<ResumableStream>> stream = find(caller);
      if (!stream.ok()) return call->Refuse(stream.status());
      call->Begin(*std::move(stream), from_token);
    });
  }
  if (!queued.ok()) call->Refuse(queued);
  return call.get();
}

}  // namespace whalepod
