#include "coordinator/api/api_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <mutex>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/status.h"
#include "coordinator/api/caller.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/grpc_generate.h"
#include "coordinator/api/grpc_resume.h"
#include "coordinator/api/job_service.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/work_pool.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {
namespace {

constexpr char kServiceName[] = "whalepod.v1.InferenceService";
constexpr size_t kUsageQueue = 64;

class Service final : public v1::InferenceService::CallbackService {
 public:
  Service(Frontend* frontend, ResumableStreams* streams)
      : frontend_(*frontend), streams_(streams) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    if (request->resumable()) {
      return ReadStream(
          context, /*from_token=*/0,
          [streams = streams_, request = *request, record = frontend_.NewRecord(Transport::kGrpc)](
              const std::string& caller) { return streams->Begin(request, caller, record); });
    }
    auto* const reactor = new GrpcGenerate(context, frontend_);
    absl::StatusOr<std::string> caller = CallerOf(frontend_, *context);
    if (!caller.ok()) {
      reactor->generation()->Refuse(caller.status());
      return reactor;
    }
    // gRPC keeps the request until the call ends, which it cannot before Begin or Refuse.
    frontend_.Generate(reactor->generation(),
                       std::shared_ptr<const v1::GenerateRequest>(std::shared_ptr<void>(), request),
                       *std::move(caller));
    return reactor;
  }

  grpc::ServerWriteReactor<v1::GenerateResponse>* ResumeGenerate(
      grpc::CallbackServerContext* context, const v1::ResumeGenerateRequest* request) override {
    return ReadStream(context, request->from_token(),
                      [streams = streams_, id = request->request_id()](const std::string& caller) {
                        return streams->Resume(id, caller);
                      });
  }

  grpc::ServerUnaryReactor* CancelGenerate(grpc::CallbackServerContext* context,
                                           const v1::CancelGenerateRequest* request,
                                           v1::CancelGenerateResponse*) override {
    return Later(
        context, [this](std::function<void()> work) { return OnStreams(std::move(work)); },
        [streams = streams_, id = request->request_id()](const std::string& caller) {
          return streams->Cancel(id, caller);
        });
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Later(
        context, [this](std::function<void()> work) { return OnText(std::move(work)); },
        [frontend = &frontend_, request, response](const std::string&) {
          return frontend->Tokenize(*request, response);
        });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Later(
        context, [this](std::function<void()> work) { return OnText(std::move(work)); },
        [frontend = &frontend_, request, response](const std::string&) {
          return frontend->Detokenize(*request, response);
        });
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const std::shared_ptr<const ServedModel> served = frontend_.model();
    const ServedModel& model = *served;
    absl::Status status = CallerOf(frontend_, *context).status();
    if (status.ok()) status = CheckModelName(model, request->model());
    if (!status.ok()) {
      reactor->Finish(ToGrpcStatus(status));
      return reactor;
    }
    response->set_model(model.name);
    response->set_model_type(model.model_type);
    response->set_vocab_size(model.vocab_size);
    response->set_max_model_len(model.max_model_len);
    for (const uint32_t id : model.eos_token_ids) response->add_eos_token_ids(id);
    response->set_bos_token_id(model.bos_token_id);
    response->set_plan_hash(model.plan_hash);
    response->set_layout(model.layout);
    response->set_has_tokenizer(model.text.tokenizer != nullptr);
    response->set_has_chat(model.text.chat != nullptr);
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    frontend_.FillStatus(response);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerUnaryReactor* GetUsage(grpc::CallbackServerContext* context,
                                     const v1::GetUsageRequest* request,
                                     v1::GetUsageResponse* response) override {
    return Later(
        context, [this](std::function<void()> work) { return OnUsage(std::move(work)); },
        [frontend = &frontend_, request, response](const std::string& caller) {
          return frontend->GetUsage(caller, *request, response);
        });
  }

 private:
  // Ends a call with what `work` says of its caller. `queue` has it run on a thread for it, where
  // it may outlive this, or says why not.
  template <typename Queue, typename Work>
  grpc::ServerUnaryReactor* Later(grpc::CallbackServerContext* context, Queue queue, Work work) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const absl::StatusOr<std::string> caller = CallerOf(frontend_, *context);
    absl::Status queued = caller.status();
    if (queued.ok()) {
      queued =
          queue([reactor, work, caller = *caller] { reactor->Finish(ToGrpcStatus(work(caller))); });
    }
    if (!queued.ok()) reactor->Finish(ToGrpcStatus(queued));
    return reactor;
  }
  absl::Status OnText(std::function<void()> work) { return frontend_.RunTextWork(std::move(work)); }
  absl::Status OnUsage(std::function<void()> work) {
    if (usage_work_.Run(std::move(work))) return absl::OkStatus();
    return WithRetryDelay(absl::ResourceExhaustedError("too many ask for their usage at once"),
                          "QUEUE_FULL", kRetryMs);
  }
  // Runs what calls the streams; it may outlive this.
  absl::Status OnStreams(std::function<void()> work) {
    if (streams_ != nullptr) return streams_->Run(std::move(work));
    return absl::UnimplementedError("this deployment has no resumable requests");
  }

  // Reads the stream that `find` gives.
  template <typename Find>
  grpc::ServerWriteReactor<v1::GenerateResponse>* ReadStream(grpc::CallbackServerContext* context,
                                                             uint32_t from_token, Find find) {
    const auto run = [this](std::function<void()> work) { return OnStreams(std::move(work)); };
    return whalepod::ReadStream(context, frontend_, from_token, run, std::move(find));
  }

  Frontend& frontend_;
  ResumableStreams* const streams_;                  // null: none
  WorkPool usage_work_{/*threads=*/1, kUsageQueue};  // waits for the disk; last: uses the rest
};

class GrpcApiServer final : public ApiServer {
 public:
  GrpcApiServer(const Options& options, Frontend* frontend, JobApi* jobs, ResumableStreams* streams)
      : host_(options.host), asked_port_(options.port), service_(frontend, streams) {
    if (jobs != nullptr) jobs_.emplace(frontend, jobs);
  }
  ~GrpcApiServer() override { Shutdown(std::chrono::milliseconds(0)); }

  absl::Status Listen() {
    static std::once_flag once;
    std::call_once(once, [] {
      grpc::EnableDefaultHealthCheckService(true);
      grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    });
    grpc::ServerBuilder builder;
    const std::string address = HostPort(host_, asked_port_);
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
    builder.SetMaxReceiveMessageSize(kMostBody);
    builder.RegisterService(&service_);
    if (jobs_) builder.RegisterService(&*jobs_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      server_.reset();
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address, " for clients: is the port in use?"));
    }
    SetServing(false);
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void SetServing(bool serving) override {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(kServiceName, serving);
  }

  void Shutdown(std::chrono::milliseconds grace) override {
    if (server_ == nullptr) return;
    SetServing(false);
    server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_->Wait();
    server_.reset();
  }

 private:
  const std::string host_;
  const int asked_port_;
  int port_ = 0;
  Service service_;
  std::optional<JobService> jobs_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(const Options& options,
                                                            Frontend* frontend, JobApi* jobs,
                                                            ResumableStreams* streams) {
  auto server = std::make_unique<GrpcApiServer>(options, frontend, jobs, streams);
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace whalepod
