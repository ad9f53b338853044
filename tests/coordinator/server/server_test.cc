// The whole coordinator over real connections, with workers that have no model.
#include "coordinator/server.h"

#include <grpcpp/grpcpp.h>

#include <future>
#include <list>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"
#include "tests/coordinator/fleet/fake_worker.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kLong(30);
constexpr int kRanks = 4;

class ServerTest : public ::testing::Test {
 protected:
  static ServeOptions Options() {
    ServeOptions options;
    options.model = WHALEPOD_MODELS_DIR "/r1-draft";
    options.tensor_parallel_size = 2;
    options.data_parallel_size = 2;
    options.kv_cache_bytes = 64 << 20;
    options.port = options.grpc_port = options.control_port = 0;
    options.heartbeat_timeout = 20;  // the machine that tests this may be very busy
    options.step_stall = 20;
    return options;
  }

  void Start(const ServeOptions& options) {
    auto server = CoordinatorServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
    run_ = std::async(std::launch::async, [this] { return server_->Run(); });
    stub_ = v1::InferenceService::NewStub(grpc::CreateChannel(
        absl::StrCat("127.0.0.1:", server_->grpc_port()), grpc::InsecureChannelCredentials()));
  }

  FakeWorker::Options Worker(int rank) {
    FakeWorker::Options options;
    options.port = server_->control_port();
    options.tp = 2;
    options.hello.set_protocol_version(v1::PROTOCOL_VERSION_CURRENT);
    options.hello.set_build_hash("build");
    options.hello.set_instruction_path("avx2");
    options.hello.set_worker(absl::StrCat("w", rank));
    options.hello.set_incarnation("first");
    options.hello.set_host("here");
    options.hello.set_preferred_rank(rank);
    const v1::ShardingPlan& plan = server_->plan();
    ModelWorker::Config model;
    for (int group = 0; group < 2; ++group) {
      model.group_blocks.push_back(
          static_cast<uint32_t>(KvBlocks(HeaderOf(plan), plan.ranks(2 * group))));
    }
    model.block_tokens = static_cast<uint32_t>(plan.runtime().kv_block_tokens());
    model.max_num_seqs = static_cast<uint32_t>(plan.runtime().max_num_seqs());
    model.max_num_batched_tokens = static_cast<uint32_t>(plan.runtime().max_num_batched_tokens());
    model.vocab_size = static_cast<uint32_t>(plan.model().vocab_size());
    model.first_step = 1;
    options.model = model;
    return options;
  }
  void AddWorkers() {
    std::vector<FakeWorker::Options> options;
    for (int rank = 0; rank < kRanks; ++rank) options.push_back(Worker(rank));
    for (FakeWorker::Options& worker : options) workers_.emplace_back(std::move(worker));
  }

  v1::GetStatusResponse Status() {
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::GetStatusResponse status;
    EXPECT_TRUE(stub_->GetStatus(&context, v1::GetStatusRequest(), &status).ok());
    return status;
  }
  void WaitState(const std::string& state) {
    const auto limit = std::chrono::steady_clock::now() + kLong;
    while (Status().state() != state && std::chrono::steady_clock::now() < limit) {
      std::this_thread::yield();
    }
    ASSERT_EQ(Status().state(), state);
  }

  static v1::GenerateRequest Request(uint32_t salt, uint32_t max_tokens) {
    v1::GenerateRequest request;
    for (uint32_t i = 0; i < 90; ++i) request.mutable_token_ids()->add_ids((salt + i) % 200);
    request.mutable_options()->set_seed(salt);
    request.mutable_options()->set_max_tokens(max_tokens);
    request.mutable_options()->set_ignore_eos(true);
    return request;
  }

  absl::Status WaitEnd() {
    if (run_.wait_for(kLong) != std::future_status::ready) return absl::UnknownError("still runs");
    return run_.get();
  }

  void TearDown() override {
    if (run_.valid()) {
      server_->StopNow();
      run_.wait();
    }
    workers_.clear();
    server_.reset();
  }

  std::unique_ptr<CoordinatorServer> server_;
  std::future<absl::Status> run_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::list<FakeWorker> workers_;
};

TEST_F(ServerTest, ServesManyAndDrains) {
  ASSERT_NO_FATAL_FAILURE(Start(Options()));
  AddWorkers();
  WaitState("ready");
  std::vector<std::future<void>> clients;
  for (uint32_t i = 0; i < 12; ++i) {
    clients.push_back(std::async(std::launch::async, [this, i] {
      const v1::GenerateRequest request = Request(i, 20 + i);
      const std::vector<uint32_t> prompt(request.token_ids().ids().begin(),
                                         request.token_ids().ids().end());
      grpc::ClientContext context;
      auto reader = stub_->Generate(&context, request);
      v1::GenerateResponse response;
      uint32_t tokens = 0;
      while (reader->Read(&response)) {
        for (const v1::GeneratedToken& token : response.tokens().tokens()) {
          EXPECT_EQ(
              token.token_id(),
              ModelWorker::TokenAt(prompt, i, tokens++,
                                   static_cast<uint32_t>(server_->plan().model().vocab_size())));
        }
      }
      EXPECT_TRUE(reader->Finish().ok());
      EXPECT_EQ(tokens, 20 + i);
    }));
  }
  for (std::future<void>& client : clients) client.get();
  server_->Stop();
  EXPECT_EQ(WaitEnd(), absl::OkStatus());
  for (FakeWorker& worker : workers_) {
    worker.WaitEnd();
    EXPECT_TRUE(worker.drained());
  }
}

TEST_F(ServerTest, ALostRankEndsTheDeploymentByName) {
  ASSERT_NO_FATAL_FAILURE(Start(Options()));
  AddWorkers();
  WaitState("ready");
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, Request(1, 2000));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  std::next(workers_.begin(), 2)->Kill();
  while (reader->Read(&response)) {
  }
  const grpc::Status client = reader->Finish();
  EXPECT_EQ(client.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(client.error_message(), HasSubstr("rank 2 (worker w2"));
  const absl::Status end = WaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(end.message()),
              AllOf(HasSubstr("rank 2 (worker w2"), HasSubstr("phase READY")));
  for (const int rank : {0, 1, 3}) {
    FakeWorker& worker = *std::next(workers_.begin(), rank);
    worker.WaitEnd();
    EXPECT_THAT(worker.abort_reason(), HasSubstr("rank 2"));
  }
}

TEST_F(ServerTest, MissingWorkersAreNamed) {
  ServeOptions options = Options();
  options.join_timeout = 0.3;
  ASSERT_NO_FATAL_FAILURE(Start(options));
  EXPECT_EQ(Status().state(), "starting");
  const absl::Status end = WaitEnd();
  EXPECT_EQ(end.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(end.message()), HasSubstr("rank 3 (no worker)"));
}

// Buffers are a matter of threads: the plan follows the workers, or they are refused by name.
TEST_F(ServerTest, ThePlanHasTheWorkersThreads) {
  ASSERT_NO_FATAL_FAILURE(Start(Options()));
  for (int rank = 0; rank < kRanks; ++rank) {
    FakeWorker::Options worker = Worker(rank);
    worker.hello.set_threads(rank == 2 ? 5 : 3);
    workers_.emplace_back(std::move(worker));
  }
  WaitState("ready");
  EXPECT_EQ(server_->plan().runtime().threads_per_rank(), 5);
  server_->Stop();
  EXPECT_TRUE(WaitEnd().ok());
}

TEST_F(ServerTest, AWorkerWithMoreThreadsThanAskedForIsRefused) {
  ServeOptions options = Options();
  options.threads_per_rank = 2;
  ASSERT_NO_FATAL_FAILURE(Start(options));
  for (int rank = 0; rank < kRanks; ++rank) {
    FakeWorker::Options worker = Worker(rank);
    worker.hello.set_threads(rank == 1 ? 3 : 2);
    workers_.emplace_back(std::move(worker));
  }
  EXPECT_THAT(WaitEnd().ToString(), AllOf(HasSubstr("worker w1 computes with 3 threads"),
                                          HasSubstr("--threads-per-rank is 2")));
}

TEST_F(ServerTest, StoppedWhileStarting) {
  ASSERT_NO_FATAL_FAILURE(Start(Options()));
  WaitState("starting");
  server_->Stop();
  EXPECT_EQ(WaitEnd(), absl::OkStatus());
}

TEST_F(ServerTest, RefusedBeforeAnythingStarts) {
  ServeOptions options = Options();
  options.model = WHALEPOD_MODELS_DIR "/nothing-here";
  EXPECT_EQ(CoordinatorServer::Start(options).status().code(), absl::StatusCode::kNotFound);
  options = Options();
  options.tensor_parallel_size = 3;
  EXPECT_EQ(CoordinatorServer::Start(options).status().code(), absl::StatusCode::kInvalidArgument);
  options = Options();
  options.max_num_seqs = 600;
  options.max_num_batched_tokens = 600;
  const absl::Status limits = CoordinatorServer::Start(options).status();
  EXPECT_EQ(limits.code(), absl::StatusCode::kInvalidArgument) << limits;
  ASSERT_NO_FATAL_FAILURE(Start(Options()));
  options = Options();
  options.control_port = server_->control_port();
  const absl::Status port = CoordinatorServer::Start(options).status();
  EXPECT_EQ(port.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(port.message()), HasSubstr(absl::StrCat(options.control_port)));
}

TEST(ServeOptionsTest, FlagsAndEnvironment) {
  ServeOptions options;
  CLI::App app("test");
  AddServeOptions(app, options);
  ::setenv("WHALEPOD_MAX_NUM_SEQS", "7", 1);
  ::setenv("WHALEPOD_TENSOR_PARALLEL_SIZE", "8", 1);
  app.parse("/models/x --tensor-parallel-size 2 --kv-cache-bytes 2GiB --enable-expert-parallel");
  ::unsetenv("WHALEPOD_MAX_NUM_SEQS");
  ::unsetenv("WHALEPOD_TENSOR_PARALLEL_SIZE");
  EXPECT_EQ(options.model, "/models/x");
  EXPECT_EQ(options.tensor_parallel_size, 2);
  EXPECT_EQ(options.max_num_seqs, 7);
  EXPECT_EQ(options.kv_cache_bytes, uint64_t{2} << 30);
  EXPECT_TRUE(options.enable_expert_parallel);
  EXPECT_THROW(app.parse("/models/x --dtype float64"), CLI::ParseError);
}

}  // namespace
}  // namespace whalepod
