// JobService over gRPC: what outlives a call, and how shutting down ends it.
#include "coordinator/api/job_service.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

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

}  // namespace
}  // namespace whalepod
