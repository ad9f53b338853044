// What commands share that talk to a running deployment.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {

// Ends a call from another thread. One call at a time.
class Canceller {
 public:
  // Cancels the call under way, or else the next one.
  void Cancel();
  // Forgets a Cancel that met no call.
  void Reset();

 private:
  friend class Client;
  void Watch(grpc::ClientContext* context);  // null: the call is over

  std::mutex mu_;
  grpc::ClientContext* context_ = nullptr;
  bool cancelled_ = false;
};

// A channel to a deployment. api_key: what it asks for; empty: none.
std::shared_ptr<grpc::Channel> Dial(const std::string& endpoint, const std::string& api_key);
// Of a call that has a reply soon.
void SetCallDeadline(grpc::ClientContext& context);
absl::Status FromGrpc(const grpc::Status& status);

// One deployment's InferenceService. Thread-safe.
class Client {
 public:
  // api_key: what the deployment asks for; empty: none.
  explicit Client(const std::string& endpoint, const std::string& api_key = "");
  // A client of `stub`: over a channel that others use too, or for tests.
  explicit Client(std::unique_ptr<v1::InferenceService::StubInterface> stub);

  // Waits until the deployment says that it is ready. DEADLINE_EXCEEDED with the last that was
  // heard; UNAVAILABLE at once if it has failed, unless another may follow it.
  enum class Failed { kEnds, kMayComeBack };
  absl::Status WaitReady(Duration wait, Failed failed = Failed::kEnds);

  // One of the n answers.
  struct Choice {
    std::vector<v1::GeneratedToken> tokens;
    std::string reasoning, text;  // the spans
    v1::GenerateResponse::Finished finished;
  };
  struct Answer {
    v1::GenerateResponse::Started started;
    std::vector<v1::GeneratedToken> prompt;  // where its logprobs are asked for
    std::vector<Choice> choices;             // as many as were asked for
  };
  using OnTokens = std::function<void(const v1::GenerateResponse::Tokens&)>;
  // Runs one request to its end; `on_tokens` is called from this thread as tokens and text come.
  // CANCELLED if `canceller` says so. A resumable request is gone on with when the deployment goes
  // away and comes back.
  absl::StatusOr<Answer> Generate(const v1::GenerateRequest& request, const OnTokens& on_tokens,
                                  Canceller* canceller = nullptr);
  // All of a resumable request, as Generate.
  absl::StatusOr<Answer> Resume(const std::string& request_id, const OnTokens& on_tokens);
  // All of the answer that `open` reads from a token on, as Resume; DEADLINE_EXCEEDED if the
  // deployment is not ready, or away, for longer than `wait`.
  using Open = std::function<std::unique_ptr<grpc::ClientReaderInterface<v1::GenerateResponse>>(
      grpc::ClientContext* context, uint32_t from_token)>;
  absl::StatusOr<Answer> Follow(const Open& open, Duration wait, const OnTokens& on_tokens);
  absl::StatusOr<v1::GetModelResponse> GetModel();
  absl::StatusOr<v1::GetStatusResponse> GetStatus();
  absl::StatusOr<v1::GetUsageResponse> GetUsage(const v1::GetUsageRequest& request);

 private:
  // Takes the rest of an answer, as often as the deployment goes away under it.
  absl::StatusOr<Answer> GoOn(Answer answer, absl::Status status, const Open& open, Duration wait,
                              const OnTokens& on_tokens);
  // Of a resumable request.
  Open OpenResumed(const std::string& request_id);

  const std::unique_ptr<v1::InferenceService::StubInterface> stub_;
};

// Says "error: CODE: message" on stderr; returns the exit status.
int ReportError(const absl::Status& status);

}  // namespace whalepod
