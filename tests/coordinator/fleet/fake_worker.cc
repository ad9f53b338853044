#include "tests/coordinator/fleet/fake_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace whalepod {

FakeWorker::FakeWorker(Options options) : options_(std::move(options)) {
  if (options_.model) model_ = std::make_unique<ModelWorker>(*options_.model);
  // A channel of its own, as another process would have.
  grpc::ChannelArguments args;
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetMaxReceiveMessageSize(4 << 20);
  stub_ = v1::ControlService::NewStub(grpc::CreateCustomChannel(
      absl::StrCat("127.0.0.1:", options_.port), grpc::InsecureChannelCredentials(), args));
  context_.set_wait_for_ready(true);
  stream_ = stub_->Attach(&context_);
  v1::AttachRequest hello;
  *hello.mutable_hello() = options_.hello;
  Send(hello);
  reader_ = std::thread([this] { Run(); });
  if (options_.heartbeats) beater_ = std::thread([this] { Beat(); });
}

FakeWorker::~FakeWorker() {
  Kill();
  reader_.join();
  if (beater_.joinable()) beater_.join();
}

void FakeWorker::Send(const v1::AttachRequest& message) {
  std::lock_guard lock(write_mu_);
  stream_->Write(message);
}

void FakeWorker::Kill() { context_.TryCancel(); }

grpc::Status FakeWorker::WaitEnd() {
  std::unique_lock lock(mu_);
  EXPECT_TRUE(ended_cv_.wait_for(lock, std::chrono::seconds(30), [this] { return ended_; }));
  return end_;
}

v1::AttachRequest FakeWorker::Done(uint64_t epoch, v1::Phase phase) {
  v1::AttachRequest message;
  message.mutable_phase_done()->set_epoch(epoch);
  message.mutable_phase_done()->set_phase(phase);
  return message;
}

void FakeWorker::Run() {
  v1::AttachResponse message;
  while (stream_->Read(&message)) {
    if (options_.intercept && options_.intercept(*this, message)) continue;
    if (!Handle(message)) break;
  }
  {
    std::lock_guard lock(write_mu_);
    stream_->WritesDone();
  }
  while (stream_->Read(&message)) {
  }
  const grpc::Status status = stream_->Finish();
  beating_ = false;
  std::lock_guard lock(mu_);
  end_ = status;
  ended_ = true;
  ended_cv_.notify_all();
}

void FakeWorker::Beat() {
  v1::AttachRequest message;
  message.mutable_heartbeat();
  while (true) {
    {
      std::unique_lock lock(mu_);
      if (ended_cv_.wait_for(lock, std::chrono::milliseconds(50), [this] { return ended_; }))
        return;
    }
    if (beating_) Send(message);
  }
}

bool FakeWorker::Handle(const v1::AttachResponse& message) {
  switch (message.message_case()) {
    case v1::AttachResponse::kPlanChunk:
      OnChunk(message.plan_chunk());
      return true;
    case v1::AttachResponse::kLoad: {
      v1::AttachRequest progress;
      progress.mutable_load_progress()->set_epoch(epoch_);
      progress.mutable_load_progress()->set_bytes_done(1000);
      progress.mutable_load_progress()->set_bytes_total(1000);
      Send(progress);
      Send(Done(epoch_, v1::PHASE_LOADED));
      return true;
    }
    case v1::AttachResponse::kConnect:
      connect_ = message.connect();
      Send(Done(epoch_, v1::PHASE_CONNECTED));
      return true;
    case v1::AttachResponse::kStep:
      OnStep(message.step());
      return true;
    case v1::AttachResponse::kAbort:
      abort_reason_ = message.abort().reason();
      return false;
    case v1::AttachResponse::kDrain:
      drained_ = true;
      return false;
    case v1::AttachResponse::MESSAGE_NOT_SET:
      ADD_FAILURE() << "an empty message";
  }
  return false;
}

void FakeWorker::OnChunk(const v1::PlanChunk& chunk) {
  epoch_ = chunk.epoch();
  rank_ = chunk.rank();
  largest_chunk_ = std::max(largest_chunk_, chunk.ByteSizeLong());
  bytes_ += chunk.data();
  if (!chunk.last()) return;
  ASSERT_TRUE(part_.ParseFromString(bytes_));
  v1::AttachRequest attestation;
  attestation.mutable_attestation()->set_epoch(epoch_);
  attestation.mutable_attestation()->set_plan_hash(part_.header().hash());
  attestation.mutable_attestation()->set_part_hash(part_.part().hash());
  Send(attestation);
  v1::AttachRequest done = Done(epoch_, v1::PHASE_PLANNED);
  done.mutable_phase_done()->set_rendezvous(absl::StrCat("blob ", rank_));
  Send(done);
}

void FakeWorker::OnStep(const v1::StepPlan& step) {
  v1::AttachRequest answer;
  v1::StepResult* result = answer.mutable_step_result();
  result->set_epoch(step.epoch());
  result->set_step(step.step());
  if (model_ != nullptr) {
    auto groups = model_->Run(step);
    ASSERT_TRUE(groups.ok()) << groups.status();
    const uint32_t group = rank_ / options_.tp;
    result->set_digest(model_->Digest(group));
    if (rank_ % options_.tp == 0) {
      GroupResult& answer = (*groups)[group];
      result->set_live_sequences(answer.live_sequences);
      result->set_live_blocks(answer.live_blocks);
      for (v1::SampledToken& token : answer.tokens) *result->add_tokens() = std::move(token);
    }
  }
  Send(answer);
  if (step.step() == 1) Send(Done(epoch_, v1::PHASE_WARMED));
}

}  // namespace whalepod
