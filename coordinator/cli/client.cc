#include "coordinator/cli/client.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/cli/commands.h"

namespace whalepod {
namespace {

constexpr auto kCallTimeout = std::chrono::seconds(5);
constexpr auto kRetry = std::chrono::milliseconds(50);
// How long a deployment may be away under a resumable request.
constexpr auto kResumeWait = std::chrono::minutes(5);

// Shows the key with every call of a channel.
class KeyInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit KeyInterceptor(std::string key) : key_(std::move(key)) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", absl::StrCat("Bearer ", key_));
    }
    methods->Proceed();
  }

 private:
  const std::string key_;
};

class KeyInterceptorFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit KeyInterceptorFactory(std::string key) : key_(std::move(key)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new KeyInterceptor(key_);
  }

 private:
  const std::string key_;
};

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

std::shared_ptr<grpc::Channel> Dial(const std::string& endpoint, const std::string& api_key) {
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // what one attempt to connect may take
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  // A completion has no deadline: it ends with the host or process it waits for.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!api_key.empty()) interceptors.push_back(std::make_unique<KeyInterceptorFactory>(api_key));
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      endpoint, grpc::InsecureChannelCredentials(), args, std::move(interceptors));
}

void SetCallDeadline(grpc::ClientContext& context) {
  context.set_deadline(std::chrono::system_clock::now() + kCallTimeout);
}

Client::Client(const std::string& endpoint, const std::string& api_key)
    : stub_(v1::InferenceService::NewStub(Dial(endpoint, api_key))) {}

Client::Client(std::unique_ptr<v1::InferenceService::StubInterface> stub)
    : stub_(std::move(stub)) {}

absl::Status Client::WaitReady(Duration wait, Failed failed) {
  const TimePoint deadline = Clock::Real()->Now() + wait;
  for (;;) {
    const absl::StatusOr<v1::GetStatusResponse> status = GetStatus();
    if (status.ok() && status->state() == "ready") return absl::OkStatus();
    std::string heard = status.ok() ? absl::StrCat(status->state(), ": ", status->message())
                                    : std::string(status.status().message());
    const bool over = status.ok() && status->state() == "failed" && failed == Failed::kEnds;
    if (over) return absl::UnavailableError(heard);
    if (Clock::Real()->Now() + kRetry > deadline) {
      return absl::DeadlineExceededError(absl::StrCat(
          "the deployment was not ready after ",
          std::chrono::duration_cast<std::chrono::seconds>(wait).count(), " s: ", heard));
    }
    std::this_thread::sleep_for(kRetry);
  }
}

void Canceller::Cancel() {
  std::lock_guard lock(mu_);
  cancelled_ = true;
  if (context_ != nullptr) context_->TryCancel();
}

void Canceller::Reset() {
  std::lock_guard lock(mu_);
  cancelled_ = false;
}

void Canceller::Watch(grpc::ClientContext* context) {
  std::lock_guard lock(mu_);
  context_ = context;
  if (context != nullptr && cancelled_) context->TryCancel();
  if (context == nullptr) cancelled_ = false;
}

namespace {

// Adds what a message says; choices that were not asked for count for nothing.
void Take(v1::GenerateResponse& response, Client::Answer* answer) {
  if (response.has_started()) answer->started = response.started();
  if (response.has_prompt()) {
    for (v1::GeneratedToken& token : *response.mutable_prompt()->mutable_tokens()) {
      answer->prompt.push_back(std::move(token));
    }
    return;
  }
  const uint32_t index =
      response.has_finished() ? response.finished().choice() : response.tokens().choice();
  if (index >= answer->choices.size()) return;
  Client::Choice& choice = answer->choices[index];
  if (response.has_finished()) choice.finished = response.finished();
  if (!response.has_tokens()) return;
  for (const v1::TextSpan& span : response.tokens().spans()) {
    (span.kind() == v1::SPAN_KIND_REASONING ? choice.reasoning : choice.text) += span.text();
  }
  for (v1::GeneratedToken& token : *response.mutable_tokens()->mutable_tokens()) {
    choice.tokens.push_back(std::move(token));
  }
}

// Reads a call to its end. FAILED_PRECONDITION if it goes on with another answer than `answer`.
absl::Status ReadAll(grpc::ClientReaderInterface<v1::GenerateResponse>* reader,
                     grpc::ClientContext* context, const Client::OnTokens& on_tokens,
                     Client::Answer* answer) {
  v1::GenerateResponse response;
  const std::string before = answer->started.fingerprint();
  while (reader->Read(&response)) {
    const std::string& now = response.started().fingerprint();
    if (response.has_started() && !before.empty() && !now.empty() && now != before) {
      context->TryCancel();
      reader->Finish();
      return absl::FailedPreconditionError(
          "the deployment has another model, precision, tokenizer or defaults than the one that "
          "began the answer: it cannot be gone on with");
    }
    if (response.has_tokens() && on_tokens) on_tokens(response.tokens());
    Take(response, answer);
  }
  return FromGrpc(reader->Finish());
}

}  // namespace

absl::StatusOr<Client::Answer> Client::Generate(const v1::GenerateRequest& request,
                                                const OnTokens& on_tokens, Canceller* canceller) {
  grpc::ClientContext context;
  if (canceller != nullptr) canceller->Watch(&context);
  const auto reader = stub_->Generate(&context, request);
  Answer answer;
  answer.choices.resize(std::max(1u, request.options().n()));
  const absl::Status status = ReadAll(reader.get(), &context, on_tokens, &answer);
  if (canceller != nullptr) canceller->Watch(nullptr);
  const std::string& id = answer.started.request_id();
  if (request.resumable() && !id.empty()) {
    return GoOn(std::move(answer), status, OpenResumed(id), kResumeWait, on_tokens);
  }
  if (!status.ok()) return status;
  return answer;
}

Client::Open Client::OpenResumed(const std::string& request_id) {
  return [this, request_id](grpc::ClientContext* context, uint32_t from_token) {
    v1::ResumeGenerateRequest request;
    request.set_request_id(request_id);
    request.set_from_token(from_token);
    return stub_->ResumeGenerate(context, request);
  };
}

absl::StatusOr<Client::Answer> Client::Resume(const std::string& request_id,
                                              const OnTokens& on_tokens) {
  return Follow(OpenResumed(request_id), kResumeWait, on_tokens);
}

absl::StatusOr<Client::Answer> Client::Follow(const Open& open, Duration wait,
                                              const OnTokens& on_tokens) {
  Answer answer;
  answer.choices.resize(1);
  return GoOn(std::move(answer), absl::UnavailableError("not asked for yet"), open, wait,
              on_tokens);
}

absl::StatusOr<Client::Answer> Client::GoOn(Answer answer, absl::Status status, const Open& open,
                                            Duration wait, const OnTokens& on_tokens) {
  // A server that is being shut down cancels calls.
  while (absl::IsUnavailable(status) || absl::IsCancelled(status)) {
    RETURN_IF_ERROR(WaitReady(wait, Failed::kMayComeBack));
    grpc::ClientContext context;
    const auto from = static_cast<uint32_t>(answer.choices.front().tokens.size());
    status = ReadAll(open(&context, from).get(), &context, on_tokens, &answer);
  }
  if (!status.ok()) return status;
  return answer;
}

absl::StatusOr<v1::GetModelResponse> Client::GetModel() {
  grpc::ClientContext context;
  SetCallDeadline(context);
  v1::GetModelResponse response;
  const grpc::Status status = stub_->GetModel(&context, v1::GetModelRequest(), &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

absl::StatusOr<v1::GetStatusResponse> Client::GetStatus() {
  grpc::ClientContext context;
  SetCallDeadline(context);
  v1::GetStatusResponse response;
  const grpc::Status status = stub_->GetStatus(&context, v1::GetStatusRequest(), &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

absl::StatusOr<v1::GetUsageResponse> Client::GetUsage(const v1::GetUsageRequest& request) {
  grpc::ClientContext context;
  SetCallDeadline(context);
  v1::GetUsageResponse response;
  const grpc::Status status = stub_->GetUsage(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  return response;
}

int ReportError(const absl::Status& status) {
  std::fprintf(stderr, "error: %s\n", status.ToString().c_str());
  return kFailed;
}

}  // namespace whalepod
