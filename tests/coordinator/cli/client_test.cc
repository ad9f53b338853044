// The commands' client and how it shows answers, against a scripted service.
#include "coordinator/cli/client.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "coordinator/cli/answer.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class FakeService : public v1::InferenceService::Service {
 public:
  FakeService() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeService() override { server_->Shutdown(); }
  std::string endpoint() const { return "127.0.0.1:" + std::to_string(port_); }

  grpc::Status GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override {
    response->set_state(asked++ < not_ready_for ? state : "ready");
    response->set_message("rank 1 loads");
    return grpc::Status::OK;
  }
  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    v1::GenerateResponse response;
    response.mutable_started()->set_seed(5);
    writer->Write(response);
    for (const uint32_t id : request->token_ids().ids()) {
      response.Clear();
      v1::GeneratedToken* token = response.mutable_tokens()->add_tokens();
      token->set_token_id(id);
      token->set_logprob(-0.25f);
      token->add_top()->set_token_id(id + 1);
      // "é" in two tokens, then the answer.
      if (id > 1) {
        v1::TextSpan* span = response.mutable_tokens()->add_spans();
        span->set_kind(id == 2 ? v1::SPAN_KIND_REASONING : v1::SPAN_KIND_ANSWER);
        span->set_text(id == 2 ? "\xC3\xA9" : "so");
      }
      writer->Write(response);
    }
    while (endless && !context->IsCancelled()) std::this_thread::yield();
    if (fail_after_tokens) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "rank 3 is lost");
    response.Clear();
    response.mutable_finished()->set_reason(v1::FINISH_REASON_LENGTH);
    response.mutable_finished()->mutable_usage()->set_completion_tokens(3);
    writer->Write(response);
    return grpc::Status::OK;
  }

  std::atomic<int> asked{0};
  int not_ready_for = 0;
  std::string state = "starting";
  bool fail_after_tokens = false;
  bool endless = false;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

TEST(ClientTest, WaitsUntilReady) {
  FakeService service;
  service.not_ready_for = 3;
  EXPECT_TRUE(Client(service.endpoint()).WaitReady(std::chrono::seconds(30)).ok());
  EXPECT_EQ(service.asked, 4);
}

TEST(ClientTest, WaitEndsWithWhatWasHeard) {
  FakeService service;
  service.not_ready_for = 1000;
  const absl::Status late = Client(service.endpoint()).WaitReady(std::chrono::seconds(0));
  EXPECT_EQ(late.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(late.message()), HasSubstr("starting: rank 1 loads"));
  service.state = "failed";
  const absl::Status failed = Client(service.endpoint()).WaitReady(std::chrono::seconds(30));
  EXPECT_EQ(failed.code(), absl::StatusCode::kUnavailable);
}

TEST(ClientTest, AnswerIsShownAsJson) {
  FakeService service;
  v1::GenerateRequest request;
  for (const uint32_t id : {1, 2, 3}) request.mutable_token_ids()->add_ids(id);
  std::vector<uint32_t> live;
  const absl::StatusOr<Client::Answer> answer =
      Client(service.endpoint()).Generate(request, [&](const v1::GenerateResponse::Tokens& tokens) {
        for (const v1::GeneratedToken& token : tokens.tokens()) live.push_back(token.token_id());
      });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(live, ::testing::ElementsAre(1u, 2u, 3u));
  const Json json = Json::parse(AnswerJson(*answer, 0, {.logprobs = true}));
  EXPECT_EQ(json["reasoning"], "\xC3\xA9");
  EXPECT_EQ(json["text"], "so");
  EXPECT_EQ(json["token_ids"], Json({1, 2, 3}));
  EXPECT_EQ(json["finish_reason"], "length");
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);
  EXPECT_EQ(json["seed"], 5);
  EXPECT_EQ(json["logprobs"].size(), 3u);
  EXPECT_EQ(json["logprobs"][1]["logprob"], -0.25);
  EXPECT_EQ(json["logprobs"][1]["top"][0]["token_id"], 3);
  EXPECT_FALSE(Json::parse(AnswerJson(*answer, 0, {})).contains("logprobs"));
}

TEST(ClientTest, ACallCanBeCancelledFromAnotherThread) {
  FakeService service;
  service.endless = true;
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(2);
  Canceller canceller;
  canceller.Cancel();
  canceller.Reset();  // what met no call is forgotten
  const absl::Status status =
      Client(service.endpoint())
          .Generate(
              request, [&](const auto&) { std::thread([&] { canceller.Cancel(); }).join(); },
              &canceller)
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  canceller.Cancel();  // before the call: it ends at once
  EXPECT_EQ(Client(service.endpoint()).Generate(request, nullptr, &canceller).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(AnswerPrinterTest, ReasoningIsSetApart) {
  const auto show = [](bool terminal) {
    v1::GenerateResponse::Tokens tokens;
    for (const auto& [kind, text] :
         {std::pair(v1::SPAN_KIND_REASONING, "2+2"), std::pair(v1::SPAN_KIND_ANSWER, "\n\n4")}) {
      tokens.add_spans()->set_kind(kind);
      tokens.mutable_spans(tokens.spans_size() - 1)->set_text(text);
    }
    ::testing::internal::CaptureStdout();
    AnswerPrinter printer(terminal, /*has_tokenizer=*/true);
    printer.Show(tokens);
    printer.End();
    return ::testing::internal::GetCapturedStdout();
  };
  EXPECT_EQ(show(false), "<think>2+2</think>\n\n4\n");
  EXPECT_EQ(show(true), "\033[2m2+2\033[0m\n4\n");
}

TEST(ClientTest, ErrorAfterTokensIsTheAnswer) {
  FakeService service;
  service.fail_after_tokens = true;
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(1);
  const absl::Status status = Client(service.endpoint()).Generate(request, nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "rank 3 is lost");
}

}  // namespace
}  // namespace whalepod
