#include "coordinator/api/api_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/grpc_generate.h"
#include "coordinator/api/work_pool.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {
namespace {

constexpr char kServiceName[] = "whalepod.v1.InferenceService";
constexpr uint32_t kRetryMs = 1000;
// A prompt of 160k token ids takes half a megabyte, its text somewhat more.
constexpr int kMostMessage = 4 << 20;
constexpr size_t kTextQueue = 64;

int TextThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 4);
}

absl::Status FillTokenize(const ServedModel& model, const v1::TokenizeRequest& request,
                          v1::TokenizeResponse* response) {
  RETURN_IF_ERROR(CheckModelName(model, request.model()));
  if (request.prompt_case() == v1::TokenizeRequest::PROMPT_NOT_SET) {
    return BadField("prompt", "MISSING", "not set", "text or chat");
  }
  ASSIGN_OR_RETURN(const Prompt prompt, request.has_chat()
                                            ? EncodeChat(model.text, request.chat())
                                            : EncodeText(model.text, request.text(), AddBos::kNo));
  response->mutable_token_ids()->mutable_ids()->Assign(prompt.ids.begin(), prompt.ids.end());
  response->set_text(prompt.text);
  response->set_max_model_len(model.max_model_len);
  return absl::OkStatus();
}

absl::Status FillDetokenize(const ServedModel& model, const v1::DetokenizeRequest& request,
                            v1::DetokenizeResponse* response) {
  RETURN_IF_ERROR(CheckModelName(model, request.model()));
  if (model.text.tokenizer == nullptr) {
    return absl::FailedPreconditionError(model.text.no_tokenizer);
  }
  const auto& ids = request.token_ids().ids();
  if (static_cast<uint64_t>(ids.size()) > model.max_model_len) {
    return BadField("token_ids", "TOO_LONG", absl::StrCat(ids.size(), " tokens"),
                    absl::StrCat("at most ", model.max_model_len));
  }
  RETURN_IF_ERROR(CheckTokenIds(model, "token_ids", ids));
  response->set_text(model.text.tokenizer->Decode(ids, SpecialTokens::kKeep));
  return absl::OkStatus();
}

class Service final : public v1::InferenceService::CallbackService {
 public:
  Service(ApiServer::Options options, ServedModel model)
      : options_(std::move(options)),
        model_(std::make_shared<const ServedModel>(std::move(model))),
        not_ready_(absl::UnavailableError("the deployment is starting")),
        id_prefix_(std::random_device()()) {}

  void SetReady(ServedModel model, Engine* engine) {
    std::lock_guard lock(mu_);
    model_ = std::make_shared<const ServedModel>(std::move(model));
    engine_ = engine;
    not_ready_ = absl::OkStatus();
  }
  void SetNotReady(const absl::Status& why) {
    std::lock_guard lock(mu_);
    not_ready_ = why;
  }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    auto* const reactor = new GrpcGenerate(context, options_.clock);
    // Kept past the reactor, which gRPC deletes once the call is over.
    const std::shared_ptr<Generation> generation = reactor->generation();
    if (request->has_token_ids()) {
      Begin(generation.get(), *request);
    } else if (!text_work_.Run(
                   [this, generation, request] { Begin(generation.get(), *request); })) {
      generation->Refuse(TextBusy());
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Later(context, [this, request, response] {
      return FillTokenize(*Now().model, *request, response);
    });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Later(context, [this, request, response] {
      return FillDetokenize(*Now().model, *request, response);
    });
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const Serving serving = Now();
    const ServedModel& model = *serving.model;
    if (absl::Status status = CheckModelName(model, request->model()); !status.ok()) {
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
    options_.status(response);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  struct Serving {
    std::shared_ptr<const ServedModel> model;
    Engine* engine = nullptr;
    absl::Status not_ready;
  };

  // Checks a request and hands it to the engine, or ends the call.
  void Begin(Generation* generation, const v1::GenerateRequest& request) {
    const Serving serving = Now();
    // What is wrong with the request itself can be told only once the limits are known.
    if (!serving.not_ready.ok()) return generation->Refuse(NotReady(serving.not_ready));
    absl::StatusOr<CheckedGenerate> checked = ValidateGenerate(*serving.model, request);
    if (!checked.ok()) return generation->Refuse(checked.status());
    std::string id = request.request_id();
    if (id.empty()) {
      id = absl::StrCat("gen-", absl::Hex(id_prefix_, absl::kZeroPad8), "-", ++next_id_);
    }
    generation->Begin(serving.engine, *std::move(checked), std::move(id), *serving.model);
  }

  // Ends a call with what `work` says, which runs on a thread of its own.
  template <typename Work>
  grpc::ServerUnaryReactor* Later(grpc::CallbackServerContext* context, Work work) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (!text_work_.Run([reactor, work] { reactor->Finish(ToGrpcStatus(work())); })) {
      reactor->Finish(ToGrpcStatus(TextBusy()));
    }
    return reactor;
  }

  static absl::Status TextBusy() {
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                              "more than ", kTextQueue, " texts wait to be encoded or decoded")),
                          "QUEUE_FULL", kRetryMs);
  }

  Serving Now() const {
    std::lock_guard lock(mu_);
    return {model_, engine_, not_ready_};
  }

  // Says how far the deployment is, where it is on its way.
  absl::Status NotReady(const absl::Status& why) const {
    v1::GetStatusResponse status;
    options_.status(&status);
    std::string text(why.message());
    if (status.state() == "starting" && !status.message().empty()) {
      absl::StrAppend(&text, ": ", status.message());
    }
    return WithRetryDelay(absl::Status(why.code(), text), "NOT_READY", kRetryMs);
  }

  const ApiServer::Options options_;
  mutable std::mutex mu_;
  std::shared_ptr<const ServedModel> model_;
  Engine* engine_ = nullptr;
  absl::Status not_ready_;
  const uint32_t id_prefix_;
  std::atomic<uint64_t> next_id_{0};
  WorkPool text_work_{TextThreads(), kTextQueue};  // last: its tasks use the rest
};

class GrpcApiServer final : public ApiServer {
 public:
  GrpcApiServer(Options options, ServedModel model)
      : host_(options.host),
        asked_port_(options.port),
        service_(std::move(options), std::move(model)) {}
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
    builder.SetMaxReceiveMessageSize(kMostMessage);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      server_.reset();
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address, " for clients: is the port in use?"));
    }
    SetHealth(false);
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void SetReady(ServedModel model, Engine* engine) override {
    service_.SetReady(std::move(model), engine);
    SetHealth(true);
  }

  void SetNotReady(const absl::Status& why) override {
    SetHealth(false);
    service_.SetNotReady(why);
  }

  void Shutdown(std::chrono::milliseconds grace) override {
    if (server_ == nullptr) return;
    SetHealth(false);
    server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_->Wait();
    server_.reset();
  }

 private:
  void SetHealth(bool serving) {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus("", serving);
    health->SetServingStatus(kServiceName, serving);
  }

  const std::string host_;
  const int asked_port_;
  int port_ = 0;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(Options options, ServedModel model) {
  auto server = std::make_unique<GrpcApiServer>(std::move(options), std::move(model));
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace whalepod
