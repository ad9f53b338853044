// JobService over gRPC: what outlives a call, and how shutting down ends it.
#include "coordinator/api/job_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/api/api_server.h"
#include "coordinator/api/job_api.h"
#include "coordinator/api/job_backend.h"
#include "tests/coordinator/api/loopback_frontend.h"
#include "tests/coordinator/jobs/test_store.h"
#include "whalepod/v1/inference.grpc.pb.h"
#include "whalepod/v1/jobs.grpc.pb.h"

namespace whalepod {
namespace {

class JobServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test_.Open().ok());
    backend_ =
        std::make_unique<JobBackend>(loopback_.frontend.get(), test_.store.get(), [] { return 7; });
    api_ = std::make_unique<JobApi>(test_.store.get(), backend_.get(),
                                    [](const v1::GenerateRequest&) { return absl::OkStatus(); });
    auto server = ApiServer::Start({}, loopback_.frontend.get(), api_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto channel = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                             grpc::InsecureChannelCredentials());
    stub_ = v1::JobService::NewStub(channel);
    inference_ = v1::InferenceService::NewStub(channel);
    job_ = test_.store->Submit(JobOf(1))->id();
  }
  // In the coordinator's order.
  void TearDown() override {
    server_.reset();
    api_.reset();
    backend_.reset();
  }
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> Watch(grpc::ClientContext* context) {
    v1::WatchJobItemRequest request;
    request.set_id(job_);
    return stub_->WatchJobItem(context, request);
  }

  LoopbackFrontend loopback_;
  TestStore test_;
  std::unique_ptr<JobBackend> backend_;
  std::unique_ptr<JobApi> api_;
  std::unique_ptr<ApiServer> server_;
  std::unique_ptr<v1::JobService::Stub> stub_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::string job_;
};

// A call can end before what finds its stream has run, which then has neither call nor service.
TEST_F(JobServiceTest, AWatcherThatWaitsForItsTurnOutlivesTheServer) {
  std::mutex mu;
  std::condition_variable changed;
  int held = 0;
  bool released = false;
  const auto hold = [&] {
    std::unique_lock lock(mu);
    ++held;
    changed.notify_all();
    changed.wait(lock, [&] { return released; });
  };
  constexpr int kThreads = 2;  // JobApi's
  for (int i = 0; i < kThreads; ++i) api_->RunAlways(hold);
  {
    std::unique_lock lock(mu);
    changed.wait(lock, [&] { return held == kThreads; });
  }
  grpc::ClientContext context;
  const auto reader = Watch(&context);
  // By then the server has the call, which came before on the same connection.
  for (int i = 0; i < 10; ++i) {
    grpc::ClientContext other;
    v1::GetStatusResponse response;
    EXPECT_TRUE(inference_->GetStatus(&other, {}, &response).ok());
  }
  server_.reset();
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_FALSE(reader->Finish().ok());
  {
    std::lock_guard lock(mu);
    released = true;
    changed.notify_all();
  }
  api_.reset();  // runs what waited
}

TEST_F(JobServiceTest, AWatcherThatLeavesGivesItsPlaceBack) {
  for (int i = 0; i < 40; ++i) {  // one item is read by 16
    grpc::ClientContext context;
    const auto reader = Watch(&context);
    context.TryCancel();
    v1::GenerateResponse response;
    EXPECT_FALSE(reader->Read(&response));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  ASSERT_TRUE(test_.store->Cancel("", job_).ok());
  grpc::Status status;
  do {  // the server learns later that they have left
    grpc::ClientContext context;
    const auto reader = Watch(&context);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    status = reader->Finish();
  } while (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED) << status.error_message();
}

// JSON lines of about `bytes` bytes.
std::string Lines(size_t bytes) {
  std::string text;
  for (int i = 0; text.size() < bytes; ++i) {
    absl::StrAppend(
        &text, R"({"custom_id":")", i,
        R"(","method":"POST","url":"/v1/completions","body":{"max_tokens":1,"prompt":")",
        std::string(100'000, 'a'), "\"}}\n");
  }
  return text;
}

class LargeJobTest : public JobServiceTest {
 protected:
  // Sends `pieces`, and that the last one of them is, after a first message that says `bytes`.
  grpc::Status Send(uint64_t bytes, const std::vector<std::string>& pieces,
                    const v1::SubmitJobRequest& job = {}, bool ends = true) {
    grpc::ClientContext context;
    const auto writer = stub_->SubmitLargeJob(&context, &response_);
    v1::SubmitLargeJobRequest message;
    *message.mutable_job() = job;
    message.set_jsonl_bytes(bytes);
    writer->Write(message);
    for (const std::string& piece : pieces) {
      message.Clear();
      message.set_jsonl(piece);
      message.set_last(ends && &piece == &pieces.back());
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }
  size_t Jobs() { return static_cast<size_t>(test_.store->List("", 1000, "")->jobs_size()); }

  v1::SubmitJobResponse response_;
};

TEST_F(LargeJobTest, PiecesMakeTheJobThatTheWholeTextDoes) {
  const std::string small = Lines(300'000);
  v1::SubmitJobRequest request;
  request.set_idempotency_key("monday");
  (*request.mutable_metadata())["a"] = "b";
  ASSERT_TRUE(Send(small.size(), {small.substr(0, 7), small.substr(7)}, request).ok());
  const v1::Job job = response_.job();
  EXPECT_EQ(job.counts().total(), 3u);
  EXPECT_EQ(job.metadata().at("a"), "b");
  request.set_jsonl(small);
  grpc::ClientContext context;
  v1::SubmitJobResponse again;
  ASSERT_TRUE(stub_->SubmitJob(&context, request, &again).ok());
  EXPECT_EQ(again.job().id(), job.id());
}

TEST_F(LargeJobTest, MoreThanAMessageHas) {
  std::string text;  // of lines that are no requests, and fail soon
  while (text.size() < 9 << 20) text += std::string(100'000, 'x') + "\n";
  std::vector<std::string> pieces;
  for (size_t at = 0; at < text.size(); at += 1 << 20) pieces.push_back(text.substr(at, 1 << 20));
  ASSERT_TRUE(Send(text.size(), pieces).ok());
  EXPECT_GT(response_.job().counts().total(), 90u);
  EXPECT_EQ(response_.job().counts().failed(), response_.job().counts().total());
}

TEST_F(LargeJobTest, WhatIsNotWholeMakesNoJob) {
  const size_t before = Jobs();
  const std::string text = Lines(1000);
  const auto refused = [&](const grpc::Status& status, const std::string& field) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    EXPECT_EQ(status.error_message().substr(0, field.size()), field);
  };
  refused(Send(text.size(), {text.substr(1)}), "jsonl is");
  refused(Send(text.size(), {text, "\n"}), "jsonl is");
  refused(Send(0, {}), "jsonl_bytes is 0");
  refused(Send(200'000'001, {text}), "jsonl_bytes is 200000001");
  v1::SubmitJobRequest whole;
  whole.set_jsonl(text);
  refused(Send(text.size(), {text}, whole), "job.work");
  {  // no message at all
    grpc::ClientContext context;
    const auto writer = stub_->SubmitLargeJob(&context, &response_);
    writer->WritesDone();
    refused(writer->Finish(), "last is");
  }
  refused(Send(text.size(), {text}, {}, /*ends=*/false), "last is");
  // The client leaves, the second time when all has come and it has not said that this was all.
  for (const std::string& sent : {text.substr(0, 9), text}) {
    grpc::ClientContext context;
    const auto writer = stub_->SubmitLargeJob(&context, &response_);
    v1::SubmitLargeJobRequest message;
    message.set_jsonl_bytes(text.size());
    message.set_jsonl(sent);
    EXPECT_TRUE(writer->Write(message));
    context.TryCancel();
    EXPECT_EQ(writer->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_EQ(Send(text.size(), {text, std::string(5 << 20, 'x')}).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Jobs(), before);
}

TEST_F(LargeJobTest, ManyAtOnceAreToldToComeBack) {
  std::vector<TransferRoom::Share> others;
  for (;;) {
    absl::StatusOr<TransferRoom::Share> share = api_->transfers().Take("", 200'000'000);
    if (!share.ok()) break;
    others.push_back(*std::move(share));
  }
  EXPECT_EQ(others.size(), 2u);
  const std::string text = Lines(1000);
  EXPECT_TRUE(Send(text.size(), {text}).ok());
  EXPECT_EQ(Send(150'000'000, {text}).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  // Who is told that a call has ended has its room for the next one.
  others.pop_back();
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(Send(200'000'000, {text}).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  // Room for it: what is told now is that the text is short.
  EXPECT_EQ(Send(150'000'000, {text}).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace whalepod
