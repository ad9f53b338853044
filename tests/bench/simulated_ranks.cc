#include "tests/bench/simulated_ranks.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/bench/step_model.h"
#include "whalepod/v1/control.pb.h"

namespace whalepod {
namespace {

constexpr auto kHeartbeat = std::chrono::milliseconds(200);

std::string Dump(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

grpc::ByteBuffer Encode(const v1::AttachRequest& message) {
  const std::string bytes = message.SerializeAsString();
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

// Every rank gets the same steps: the first to get one has it decoded and run. Real ranks are on
// other machines, where each decodes its own.
class SharedModel {
 public:
  explicit SharedModel(const SimulatedRanksOptions& options)
      : ranks_(options.ranks),
        tp_(options.tp),
        model_(static_cast<uint32_t>(options.ranks / options.tp), options.slots) {}

  // The answer to the step in `bytes`, if it was added; nothing else.
  std::optional<grpc::ByteBuffer> Answer(int rank, const std::string& bytes) {
    std::lock_guard lock(mu_);
    for (auto it = steps_.begin(); it != steps_.end(); ++it) {
      if (it->second.bytes != bytes) continue;
      const bool speaks = rank % tp_ == 0;
      grpc::ByteBuffer answer =
          speaks ? it->second.groups[static_cast<size_t>(rank / tp_)] : it->second.others;
      if (++it->second.answers == ranks_) steps_.erase(it);
      return answer;
    }
    return std::nullopt;
  }

  void Add(const std::string& bytes, const v1::StepPlan& plan) {
    std::lock_guard lock(mu_);
    if (plan.step() <= last_step_) return;  // another rank was sooner
    last_step_ = plan.step();
    Step& step = steps_[plan.step()];
    step.bytes = bytes;
    v1::AttachRequest message;
    v1::StepResult* result = message.mutable_step_result();
    result->set_epoch(plan.epoch());
    result->set_step(plan.step());
    result->set_digest(plan.step());
    step.others = Encode(message);
    for (GroupResult& group : model_.Run(plan)) {
      result->set_live_sequences(group.live_sequences);
      result->set_live_blocks(group.live_blocks);
      result->clear_tokens();
      for (v1::SampledToken& token : group.tokens) *result->add_tokens() = std::move(token);
      step.groups.push_back(Encode(message));
    }
  }

 private:
  struct Step {
    std::string bytes;
    int answers = 0;
    std::vector<grpc::ByteBuffer> groups;  // of each DP group's first rank
    grpc::ByteBuffer others;
  };
  const int ranks_, tp_;
  std::mutex mu_;
  StepModel model_;
  uint64_t last_step_ = 0;
  std::map<uint64_t, Step> steps_;
};

class RankStream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  RankStream(const SimulatedRanksOptions& options, int rank, SharedModel* model)
      : rank_(rank), model_(model) {
    grpc::ChannelArguments args;
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    stub_ = std::make_unique<grpc::GenericStub>(grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", options.port), grpc::InsecureChannelCredentials(), args));
    context_.set_wait_for_ready(true);
    stub_->PrepareBidiStreamingCall(&context_, "/whalepod.v1.ControlService/Attach", {}, this);
    v1::AttachRequest message;
    v1::Hello* hello = message.mutable_hello();
    hello->set_protocol_version(v1::PROTOCOL_VERSION_CURRENT);
    hello->set_build_hash("simulated");
    hello->set_instruction_path("none");
    hello->set_worker(absl::StrCat("rank", rank));
    hello->set_incarnation("1");
    hello->set_host(absl::StrCat("host", rank / 8));
    hello->set_address("127.0.0.1");
    hello->set_preferred_rank(rank);
    Send(Encode(message));
    StartRead(&incoming_);
    StartCall();
  }

  void Send(grpc::ByteBuffer message) {
    std::lock_guard lock(mu_);
    if (leaving_) return;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }
  void WaitEnd() {
    std::unique_lock lock(mu_);
    ended_cv_.wait(lock, [this] { return ended_; });
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mu_);
    outgoing_.pop_front();
    if (!ok) {
      leaving_ = true;
      outgoing_.clear();
    }
    if (!outgoing_.empty()) {
      StartWrite(&outgoing_.front());
    } else if (leaving_ && ok) {
      StartWritesDone();
    }
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    Handle();
    StartRead(&incoming_);
  }
  void OnDone(const grpc::Status&) override {
    std::lock_guard lock(mu_);
    ended_ = leaving_ = true;
    ended_cv_.notify_all();
  }

 private:
  void Done(v1::Phase phase) {
    v1::AttachRequest message;
    message.mutable_phase_done()->set_epoch(epoch_);
    message.mutable_phase_done()->set_phase(phase);
    if (phase == v1::PHASE_PLANNED) {
      message.mutable_phase_done()->set_rendezvous(absl::StrCat("rank ", rank_));
    }
    Send(Encode(message));
  }

  // After the first step.
  void Warmed() {
    if (!std::exchange(warmed_, true)) Done(v1::PHASE_WARMED);
  }

  void Leave() {
    std::lock_guard lock(mu_);
    if (leaving_) return;
    leaving_ = true;
    if (outgoing_.empty()) StartWritesDone();
  }

  void OnChunk(const v1::PlanChunk& chunk) {
    epoch_ = chunk.epoch();
    part_bytes_ += chunk.data();
    if (!chunk.last()) return;
    v1::PlanPart part;
    if (!part.ParseFromString(part_bytes_)) return Leave();
    v1::AttachRequest message;
    message.mutable_attestation()->set_epoch(epoch_);
    message.mutable_attestation()->set_plan_hash(part.header().hash());
    message.mutable_attestation()->set_part_hash(part.part().hash());
    Send(Encode(message));
    Done(v1::PHASE_PLANNED);
  }

  void Handle() {
    const std::string bytes = Dump(incoming_);
    if (std::optional<grpc::ByteBuffer> answer = model_->Answer(rank_, bytes)) {
      Send(*answer);
      return Warmed();
    }
    v1::AttachResponse message;
    if (!message.ParseFromString(bytes)) return Leave();
    switch (message.message_case()) {
      case v1::AttachResponse::kPlanChunk:
        return OnChunk(message.plan_chunk());
      case v1::AttachResponse::kLoad:
        return Done(v1::PHASE_LOADED);
      case v1::AttachResponse::kConnect:
        return Done(v1::PHASE_CONNECTED);
      case v1::AttachResponse::kStep:
        model_->Add(bytes, message.step());
        Send(model_->Answer(rank_, bytes).value());
        return Warmed();
      case v1::AttachResponse::kAbort:
      case v1::AttachResponse::kDrain:
      case v1::AttachResponse::MESSAGE_NOT_SET:
        return Leave();
    }
  }

  const int rank_;
  SharedModel* const model_;
  std::unique_ptr<grpc::GenericStub> stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer incoming_;
  uint64_t epoch_ = 0;
  std::string part_bytes_;
  bool warmed_ = false;
  std::mutex mu_;
  std::condition_variable ended_cv_;
  std::deque<grpc::ByteBuffer> outgoing_;  // the first is being written
  bool leaving_ = false, ended_ = false;
};

}  // namespace

int RunSimulatedRanks(const SimulatedRanksOptions& options) {
  SharedModel model(options);
  std::vector<std::unique_ptr<RankStream>> streams;
  for (int rank = 0; rank < options.ranks; ++rank) {
    streams.push_back(std::make_unique<RankStream>(options, rank, &model));
  }
  std::mutex mu;
  std::condition_variable stop;
  bool stopping = false;
  std::thread beats([&] {
    v1::AttachRequest message;
    message.mutable_heartbeat();
    const grpc::ByteBuffer heartbeat = Encode(message);
    std::unique_lock lock(mu);
    while (!stop.wait_for(lock, kHeartbeat, [&] { return stopping; })) {
      for (const auto& stream : streams) stream->Send(heartbeat);
    }
  });
  for (const auto& stream : streams) stream->WaitEnd();
  {
    std::lock_guard lock(mu);
    stopping = true;
  }
  stop.notify_all();
  beats.join();
  return 0;
}

}  // namespace whalepod
