#include "coordinator/api/job_service.h"

#include <mutex>
#include <string>
#include <utility>

#include "base/status.h"
#include "coordinator/api/caller.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/grpc_resume.h"
#include "coordinator/api/job_submission.h"

namespace whalepod {
namespace {

constexpr uint32_t kItemsAMessage = 64;

// One WatchJob call: reads from the store what has ended, writes it, and waits for more. Owns
// itself until gRPC is done with it. One party at a time is busy: a read on the pool or a write.
// gRPC's calls are made without the lock, since it may run reactions within them.
class Watcher final : public grpc::ServerWriteReactor<v1::WatchJobResponse> {
 public:
  Watcher(JobApi* jobs, JobStore* store, std::string tenant, const v1::WatchJobRequest& request)
      : jobs_(*jobs),
        store_(*store),
        tenant_(std::move(tenant)),
        id_(request.id()),
        from_(request.from()) {
    listener_ = store_.AddListener([this](const std::string& id) {
      if (id == id_) Look();
    });
    Look();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(grpc::Status::CANCELLED);
    from_ += static_cast<uint32_t>(message_.items_size());
    if (Over()) return End(grpc::Status::OK);
    jobs_.RunAlways([this] { Read(); });
  }
  void OnCancel() override {
    {
      std::lock_guard lock(mu_);
      cancelled_ = true;
      if (busy_ || ended_) return;  // who is busy sees it
      ended_ = true;
    }
    Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override {
    store_.RemoveListener(listener_);
    delete this;
  }

 private:
  void Look() {
    std::lock_guard lock(mu_);
    more_ = true;
    if (busy_ || ended_) return;
    busy_ = true;
    jobs_.RunAlways([this] { Read(); });
  }

  bool Over() const {
    const v1::JobCounts& counts = message_.job().counts();
    return message_.job().ended_ms() != 0 && from_ >= counts.total();
  }

  void End(const grpc::Status& status) {
    {
      std::lock_guard lock(mu_);
      ended_ = true;
    }
    Finish(status);
  }

  void Read() {
    {
      std::lock_guard lock(mu_);
      more_ = false;
    }
    absl::StatusOr<v1::WatchJobResponse> found = store_.Watch(tenant_, id_, from_, kItemsAMessage);
    if (!found.ok()) return End(ToGrpcStatus(found.status()));
    message_ = *std::move(found);
    // The first message tells of the job, the last one of its end.
    const bool told = std::exchange(told_, true);
    if (message_.items_size() > 0 || !told || Over()) {
      return StartWrite(&message_);
    }
    {
      std::lock_guard lock(mu_);
      if (!cancelled_ && !more_) {
        busy_ = false;
        return;
      }
      if (!cancelled_) return jobs_.RunAlways([this] { Read(); });
      ended_ = true;
    }
    Finish(grpc::Status::CANCELLED);
  }

  JobApi& jobs_;
  JobStore& store_;
  const std::string tenant_, id_;
  int listener_ = -1;
  // Of who is busy.
  uint32_t from_;
  v1::WatchJobResponse message_;
  bool told_ = false;  // the client knows the job

  std::mutex mu_;
  bool busy_ = false;
  bool more_ = false;  // may be there since the last read
  bool cancelled_ = false;
  bool ended_ = false;  // Finish is called
};

// A call that is refused.
class Refused final : public grpc::ServerWriteReactor<v1::WatchJobResponse> {
 public:
  explicit Refused(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerUnaryReactor* JobService::Later(grpc::CallbackServerContext* context, Work work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status begun = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(std::string tenant, CallerOf(frontend_, *context));
    ASSIGN_OR_RETURN(JobStore* const store, jobs_.store());
    return jobs_.Run([reactor, store, tenant = std::move(tenant), work = std::move(work)] {
      reactor->Finish(ToGrpcStatus(work(*store, tenant)));
    });
  }();
  if (!begun.ok()) reactor->Finish(ToGrpcStatus(begun));
  return reactor;
}

grpc::ServerUnaryReactor* JobService::SubmitJob(grpc::CallbackServerContext* context,
                                                const v1::SubmitJobRequest* request,
                                                v1::SubmitJobResponse* response) {
  return Later(context, [jobs = &jobs_, request, response](JobStore&, const std::string& tenant) {
    ASSIGN_OR_RETURN(*response->mutable_job(), jobs->Submit(tenant, *request));
    return absl::OkStatus();
  });
}

grpc::ServerReadReactor<v1::SubmitLargeJobRequest>* JobService::SubmitLargeJob(
    grpc::CallbackServerContext* context, v1::SubmitJobResponse* response) {
  return JobSubmission::Begin(context, frontend_, &jobs_, response);
}

grpc::ServerUnaryReactor* JobService::GetJob(grpc::CallbackServerContext* context,
                                             const v1::GetJobRequest* request,
                                             v1::GetJobResponse* response) {
  return Later(context, [request, response](JobStore& store, const std::string& tenant) {
    ASSIGN_OR_RETURN(*response->mutable_job(), store.Get(tenant, request->id()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* JobService::ListJobs(grpc::CallbackServerContext* context,
                                               const v1::ListJobsRequest* request,
                                               v1::ListJobsResponse* response) {
  return Later(context, [request, response](JobStore& store, const std::string& tenant) {
    ASSIGN_OR_RETURN(*response, store.List(tenant, request->page_size(), request->page_token()));
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchJobResponse>* JobService::WatchJob(
    grpc::CallbackServerContext* context, const v1::WatchJobRequest* request) {
  absl::StatusOr<std::string> tenant = CallerOf(frontend_, *context);
  if (!tenant.ok()) return new Refused(tenant.status());
  const absl::StatusOr<JobStore*> store = jobs_.store();
  if (!store.ok()) return new Refused(store.status());
  return new Watcher(&jobs_, *store, *std::move(tenant), *request);
}

grpc::ServerWriteReactor<v1::GenerateResponse>* JobService::WatchJobItem(
    grpc::CallbackServerContext* context, const v1::WatchJobItemRequest* request) {
  // May run once the call, and this, are gone.
  JobApi* const jobs = &jobs_;
  return ReadStream(
      context, frontend_, request->from_token(),
      [jobs](std::function<void()> work) { return jobs->Run(std::move(work)); },
      [jobs, request = *request](const std::string& tenant) {
        return jobs->WatchItem(tenant, request);
      });
}

grpc::ServerUnaryReactor* JobService::GetJobResults(grpc::CallbackServerContext* context,
                                                    const v1::GetJobResultsRequest* request,
                                                    v1::GetJobResultsResponse* response) {
  return Later(context, [request, response](JobStore& store, const std::string& tenant) {
    ASSIGN_OR_RETURN(*response, store.Results(tenant, request->id(), request->page_size(),
                                              request->page_token()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* JobService::CancelJob(grpc::CallbackServerContext* context,
                                                const v1::CancelJobRequest* request,
                                                v1::CancelJobResponse* response) {
  return Later(context, [request, response](JobStore& store, const std::string& tenant) {
    ASSIGN_OR_RETURN(*response->mutable_job(), store.Cancel(tenant, request->id()));
    return absl::OkStatus();
  });
}

}  // namespace whalepod
