#include "coordinator/api/api_server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <future>
#include <thread>

#include "absl/strings/str_cat.h"
#include "coordinator/usage/sums.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/api/loopback_frontend.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

constexpr std::chrono::seconds kLong(20);

class ApiServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto started = ApiServer::Start({}, frontend_);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = std::move(started).value();
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::InferenceService::NewStub(channel_);
  }
  void SetReady() {
    loopback_.SetReady();
    server_->SetServing(true);
  }

  static v1::GenerateRequest Request(uint32_t salt, uint32_t max_tokens) {
    v1::GenerateRequest request;
    for (uint32_t i = 0; i < 5; ++i) request.mutable_token_ids()->add_ids(salt + i);
    request.mutable_options()->set_seed(salt);
    request.mutable_options()->set_max_tokens(max_tokens);
    request.mutable_options()->set_ignore_eos(true);
    return request;
  }

  struct Answer {
    v1::GenerateResponse::Started started;
    std::vector<uint32_t> tokens;
    std::string reasoning, text;
    v1::GenerateResponse::Finished finished;
    grpc::Status status;
  };
  Answer Generate(const v1::GenerateRequest& request) {
    Answer answer;
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      if (response.has_started()) answer.started = response.started();
      for (const auto& token : response.tokens().tokens())
        answer.tokens.push_back(token.token_id());
      for (const auto& span : response.tokens().spans()) {
        (span.kind() == v1::SPAN_KIND_REASONING ? answer.reasoning : answer.text) += span.text();
      }
      if (response.has_finished()) answer.finished = response.finished();
    }
    answer.status = reader->Finish();
    return answer;
  }

  static v1::ErrorDetail Detail(const grpc::Status& status) {
    v1::RpcStatus rpc;
    v1::ErrorDetail detail;
    EXPECT_TRUE(rpc.ParseFromString(status.error_details()));
    if (rpc.details_size() > 0) rpc.details(0).UnpackTo(&detail);
    return detail;
  }

  void ExpectAllFreed() { loopback_.ExpectAllFreed(); }

  // One Health.Check by hand: the service has no generated stub here. Field 1 of the answer: 1
  // SERVING, 2 NOT_SERVING.
  grpc::Status CheckHealth(const std::string& service, int* state) {
    std::string request;
    if (!service.empty()) {
      request = absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
    }
    const grpc::Slice slice(request);
    const grpc::ByteBuffer buffer(&slice, 1);
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    grpc::ByteBuffer answer;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::StubOptions(), &buffer, &answer,
                   [&done](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    *state = 0;
    std::vector<grpc::Slice> slices;
    if (status.ok() && answer.Dump(&slices).ok()) {
      std::string bytes;
      for (const grpc::Slice& s : slices) bytes.append(s.begin(), s.end());
      if (bytes.size() == 2 && bytes[0] == 8) *state = bytes[1];
    }
    return status;
  }

  LoopbackFrontend loopback_;
  ServedModel& model_ = loopback_.model;
  Engine* const engine_ = loopback_.engine.get();
  LoopbackRanks* const ranks_ = loopback_.ranks.get();
  Frontend* const frontend_ = loopback_.frontend.get();
  std::unique_ptr<ApiServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(ApiServerTest, NotReadySaysHowFarItIs) {
  const Answer answer = Generate(Request(1, 4));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("phase LOADED: 1 of 2 ranks"));
  EXPECT_EQ(Detail(answer.status).reason(), "NOT_READY");
  EXPECT_GT(Detail(answer.status).retry_delay_ms(), 0u);
}

TEST_F(ApiServerTest, UsageIsCountedWhenTheAnswerIsThere) {
  SetReady();
  v1::Usage sum;
  for (uint32_t salt = 1; salt <= 3; ++salt) {
    const Answer answer = Generate(Request(salt, 4));
    ASSERT_TRUE(answer.status.ok());
    EXPECT_GT(answer.finished.usage().cost_dollars(), 0);
    AddRequest(answer.finished.usage(), &sum);
    grpc::ClientContext context;
    v1::GetUsageResponse usage;
    ASSERT_TRUE(stub_->GetUsage(&context, v1::GetUsageRequest(), &usage).ok());
    EXPECT_EQ(usage.from_day(), "1969-12-03");
    EXPECT_EQ(usage.to_day(), "1970-01-01");
    EXPECT_TRUE(usage.in_memory());
    ASSERT_EQ(usage.rows_size(), 1);
    EXPECT_EQ(usage.rows(0).requests(), salt);
    EXPECT_EQ(usage.rows(0).input_tokens(), sum.prompt_tokens() - sum.cached_tokens());
    EXPECT_EQ(usage.rows(0).cached_input_tokens(), sum.cached_tokens());
    EXPECT_EQ(usage.rows(0).output_tokens(), sum.completion_tokens());
    EXPECT_DOUBLE_EQ(usage.rows(0).cost_dollars(), sum.cost_dollars());
  }
}

TEST_F(ApiServerTest, UsageOfNoDayIsRefusedByField) {
  grpc::ClientContext context;
  v1::GetUsageRequest request;
  request.set_to_day("2026-02-30");
  v1::GetUsageResponse usage;
  const grpc::Status status = stub_->GetUsage(&context, request, &usage);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Detail(status).field(), "to_day");
}

TEST_F(ApiServerTest, HealthFollowsReadiness) {
  int state = 0;
  for (const std::string service : {"", "whalepod.v1.InferenceService"}) {
    ASSERT_TRUE(CheckHealth(service, &state).ok());
    EXPECT_EQ(state, 2) << service;
  }
  SetReady();
  for (const std::string service : {"", "whalepod.v1.InferenceService"}) {
    ASSERT_TRUE(CheckHealth(service, &state).ok());
    EXPECT_EQ(state, 1) << service;
  }
  EXPECT_EQ(CheckHealth("nobody", &state).error_code(), grpc::StatusCode::NOT_FOUND);
  server_->SetServing(false);
  frontend_->SetNotReady(absl::UnavailableError("rank 1 is lost"));
  ASSERT_TRUE(CheckHealth("", &state).ok());
  EXPECT_EQ(state, 2);
  EXPECT_THAT(Generate(Request(1, 4)).status.error_message(), HasSubstr("rank 1 is lost"));
}

TEST_F(ApiServerTest, StreamsTokensThenUsage) {
  SetReady();
  v1::GenerateRequest request = Request(7, 9);
  request.set_request_id("mine");
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.started.request_id(), "mine");
  EXPECT_EQ(answer.started.seed(), 7u);
  EXPECT_EQ(answer.started.model(), "r1-draft");
  ASSERT_EQ(answer.tokens.size(), 9u);
  const std::vector<uint32_t> prompt(request.token_ids().ids().begin(),
                                     request.token_ids().ids().end());
  for (uint32_t i = 0; i < 9; ++i) {
    EXPECT_EQ(answer.tokens[i], ModelWorker::TokenAt(prompt, 7, i, 1000));
  }
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.finished.usage().prompt_tokens(), 5u);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), 9u);
  EXPECT_FALSE(Generate(Request(7, 1)).started.request_id().empty());
}

// The simulated ranks answer with arbitrary ids: what is shown is what the tokenizer says of them.
TEST_F(ApiServerTest, TextComesInSpans) {
  model_.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  model_.vocab_size = 1000;
  SetReady();
  v1::GenerateRequest request = Request(7, 40);
  request.mutable_chat()->add_messages()->set_role("user");
  request.mutable_chat()->mutable_messages(0)->set_content("What is 1 plus 2?");
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  ASSERT_EQ(answer.tokens.size(), 40u);
  EXPECT_EQ(std::count(answer.tokens.begin(), answer.tokens.end(), 490u), 0);  // no </think>
  EXPECT_EQ(answer.text, "");
  EXPECT_EQ(answer.reasoning, model_.text.tokenizer->Decode(answer.tokens, SpecialTokens::kSkip));
  EXPECT_FALSE(answer.reasoning.empty());
}

TEST_F(ApiServerTest, AStopStringEndsTheAnswerAndFreesEverything) {
  model_.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  SetReady();
  v1::GenerateRequest request = Request(7, 40);
  const std::string whole = Generate(request).text;
  ASSERT_GT(whole.size(), 20u);
  // Two characters that first stand together somewhere in the middle.
  size_t at = whole.size() / 2;
  while (static_cast<unsigned char>(whole[at]) >= 0x80 ||
         static_cast<unsigned char>(whole[at + 1]) >= 0x80) {
    ++at;
    ASSERT_LT(at + 1, whole.size());
  }
  request.mutable_options()->add_stop("not in it");
  request.mutable_options()->add_stop(whole.substr(at, 2));
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, whole.substr(0, whole.find(whole.substr(at, 2))));
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.finished.stop(), whole.substr(at, 2));
  EXPECT_EQ(answer.finished.usage().completion_tokens(), answer.tokens.size());
  EXPECT_LT(answer.tokens.size(), 40u);
  ExpectAllFreed();
}

TEST_F(ApiServerTest, NoStopStringEndsAnAnswerBeforeMinTokens) {
  model_.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  SetReady();
  v1::GenerateRequest request = Request(7, 40);
  const Answer whole = Generate(request);
  request.mutable_options()->set_min_tokens(10);
  request.mutable_options()->add_stop(whole.text.substr(0, 1));
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_GT(answer.tokens.size(), 10u);
  EXPECT_EQ(answer.text, whole.text.substr(0, answer.text.size()));
  EXPECT_GE(answer.text.size(), 10u / 2);
}

TEST_F(ApiServerTest, SeveralAnswersToOnePrompt) {
  SetReady();
  v1::GenerateRequest request = Request(7, 12);
  request.mutable_options()->set_n(3);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  std::vector<std::vector<uint32_t>> tokens(3);
  std::vector<int> finished(3);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    for (const auto& token : response.tokens().tokens()) {
      ASSERT_EQ(finished[response.tokens().choice()], 0);
      tokens[response.tokens().choice()].push_back(token.token_id());
    }
    if (!response.has_finished()) continue;
    ++finished[response.finished().choice()];
    EXPECT_EQ(response.finished().usage().completion_tokens(), 12u);
    EXPECT_EQ(response.finished().reason(), v1::FINISH_REASON_LENGTH);
  }
  EXPECT_TRUE(reader->Finish().ok());
  const std::vector<uint32_t> prompt(request.token_ids().ids().begin(),
                                     request.token_ids().ids().end());
  for (uint32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(finished[choice], 1);
    ASSERT_EQ(tokens[choice].size(), 12u);
    for (uint32_t i = 0; i < 12; ++i) {
      EXPECT_EQ(tokens[choice][i], ModelWorker::TokenAt(prompt, 7 + choice, i, 1000));
    }
  }
  ExpectAllFreed();
}

TEST_F(ApiServerTest, AnErrorOfOneChoiceEndsAll) {
  SetReady();
  v1::GenerateRequest request = Request(7, 100);
  request.mutable_options()->set_n(3);
  ranks_->worker().FailToken({7, 8, 9, 10, 11}, 4);
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DATA_LOSS);
  ExpectAllFreed();
}

TEST_F(ApiServerTest, AllChoicesOrNone) {
  SetReady();
  v1::GenerateRequest request = Request(7, 100);
  request.mutable_options()->set_n(64);  // the queue holds 6
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(answer.tokens.empty());
  ExpectAllFreed();
}

TEST_F(ApiServerTest, LogprobsOfThePromptComeFirst) {
  SetReady();
  v1::GenerateRequest request = Request(7, 5);
  for (uint32_t id = 100; id < 200; ++id) request.mutable_token_ids()->add_ids(id);
  request.mutable_options()->set_n(2);
  request.mutable_options()->set_prompt_logprobs(0);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  std::vector<v1::GeneratedToken> prompt;
  v1::GenerateResponse response;
  bool generated = false;
  while (reader->Read(&response)) {
    generated = generated || (response.has_tokens() && response.tokens().choice() == 0);
    for (const auto& token : response.prompt().tokens()) {
      EXPECT_FALSE(generated);
      prompt.push_back(token);
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  ASSERT_EQ(static_cast<int>(prompt.size()), request.token_ids().ids_size());
  EXPECT_FALSE(prompt[0].has_logprob());
  for (size_t i = 0; i < prompt.size(); ++i) {
    EXPECT_EQ(prompt[i].token_id(), request.token_ids().ids(static_cast<int>(i)));
    if (i > 0) {
      EXPECT_EQ(prompt[i].logprob(), -static_cast<float>(i));
    }
  }
}

TEST_F(ApiServerTest, TokenizeAndDetokenize) {
  model_.text = LoadModelText(WHALEPOD_MODELS_DIR "/r1-draft");
  SetReady();
  grpc::ClientContext context;
  v1::TokenizeRequest tokenize;
  tokenize.mutable_chat()->add_messages()->set_role("user");
  tokenize.mutable_chat()->mutable_messages(0)->set_content("1+2");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&context, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.max_model_len(), 200u);
  grpc::ClientContext second;
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), tokens.text());
  grpc::ClientContext third;
  detokenize.mutable_token_ids()->add_ids(1000);
  const grpc::Status bad = stub_->Detokenize(&third, detokenize, &text);
  EXPECT_EQ(bad.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  grpc::ClientContext fourth;
  EXPECT_EQ(stub_->Tokenize(&fourth, v1::TokenizeRequest(), &tokens).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ApiServerTest, ManyClientsAtOnce) {
  SetReady();
  std::vector<std::thread> threads;
  std::vector<Answer> answers(6);
  for (uint32_t i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] { answers[i] = Generate(Request(i, 3 + i)); });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint32_t i = 0; i < 6; ++i) {
    EXPECT_TRUE(answers[i].status.ok()) << answers[i].status.error_message();
    EXPECT_EQ(answers[i].tokens.size(), 3 + i);
  }
  ExpectAllFreed();
}

TEST_F(ApiServerTest, BadRequestsCarryTheField) {
  SetReady();
  v1::GenerateRequest request = Request(1, 4);
  request.mutable_options()->set_temperature(3);
  const Answer answer = Generate(request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Detail(answer.status).field(), "options.temperature");
  EXPECT_EQ(Detail(answer.status).value(), "3");
}

TEST_F(ApiServerTest, AFullQueueSaysWhenToRetry) {
  SetReady();
  ranks_->Hold(true);
  // At most four run and six wait while the ranks answer nothing.
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  grpc::Status refused;
  while (refused.ok()) {
    ASSERT_LE(contexts.size(), 10u);
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    auto reader = stub_->Generate(contexts.back().get(), Request(contexts.size(), 20));
    v1::GenerateResponse response;
    if (reader->Read(&response)) {
      readers.push_back(std::move(reader));
    } else {
      refused = reader->Finish();
    }
  }
  EXPECT_GE(readers.size(), 6u);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Detail(refused).reason(), "QUEUE_FULL");
  EXPECT_GT(Detail(refused).retry_delay_ms(), 0u);
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) reader->Finish();
  ranks_->Hold(false);
  ExpectAllFreed();
}

TEST_F(ApiServerTest, CancelFreesEverything) {
  SetReady();
  ranks_->Hold(true);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, Request(3, 150));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_started());
  context.TryCancel();
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (engine_->Stats().cancelled == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  ranks_->Hold(false);
  ExpectAllFreed();
  EXPECT_EQ(engine_->Stats().cancelled, 1u);
}

TEST_F(ApiServerTest, ADeadlineFreesEverything) {
  SetReady();
  ranks_->Hold(true);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  auto reader = stub_->Generate(&context, Request(3, 150));
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  const auto deadline = std::chrono::steady_clock::now() + kLong;
  while (engine_->Stats().cancelled == 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  ranks_->Hold(false);
  ExpectAllFreed();
}

TEST_F(ApiServerTest, ALostDeploymentEndsStreamsByName) {
  SetReady();
  ranks_->Hold(true);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, Request(3, 150));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  engine_->Fail(absl::UnavailableError("rank 3 (worker w3) was lost"));
  while (reader->Read(&response)) {
  }
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("rank 3"));
}

TEST_F(ApiServerTest, GetModelAndReflection) {
  grpc::ClientContext context;
  v1::GetModelRequest request;
  v1::GetModelResponse response;
  ASSERT_TRUE(stub_->GetModel(&context, request, &response).ok());
  EXPECT_EQ(response.model(), "r1-draft");
  EXPECT_EQ(response.vocab_size(), 1000u);
  EXPECT_EQ(response.layout(), "tp2");
  grpc::ClientContext other;
  request.set_model("nobody");
  EXPECT_EQ(stub_->GetModel(&other, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
  grpc::ClientContext third;
  v1::GetStatusResponse status;
  ASSERT_TRUE(stub_->GetStatus(&third, v1::GetStatusRequest(), &status).ok());
  EXPECT_EQ(status.state(), "starting");
}

TEST_F(ApiServerTest, APortInUseIsAnError) {
  ApiServer::Options options;
  options.port = server_->port();
  const absl::Status status = ApiServer::Start(options, frontend_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat(server_->port())));
}

}  // namespace
}  // namespace whalepod
