#include "coordinator/fleet/control_server.h"

#include <grpcpp/alarm.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/host_port.h"
#include "base/log.h"
#include "whalepod/v1/control.grpc.pb.h"

namespace whalepod {
namespace {

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()));
}

using AttachService = v1::ControlService::WithRawCallbackMethod_Attach<v1::ControlService::Service>;

// Messages as they go over the wire. One that goes to many ranks is encoded once: the bytes are
// shared. Thread-safe.
class Encoder {
 public:
  grpc::ByteBuffer Encode(const WorkerLink::Message& message) {
    std::lock_guard lock(mu_);
    if (message == last_) return bytes_;
    grpc::ByteBuffer bytes;
    bool own = false;
    // A message that we made can be encoded.
    CHECK(grpc::SerializationTraits<v1::AttachResponse>::Serialize(*message, &bytes, &own).ok());
    last_ = message;
    bytes_ = bytes;
    return bytes_;
  }

 private:
  std::mutex mu_;
  WorkerLink::Message last_;
  grpc::ByteBuffer bytes_;
};

// One worker's stream. gRPC may run reactions at the same time and on any thread, so all Start*
// and Finish calls are made under mu_. The object lives until gRPC is done with it (OnDone) and
// the fleet has let it go.
class AttachStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                           public WorkerLink,
                           public std::enable_shared_from_this<AttachStream> {
 public:
  static AttachStream* Make(Fleet* fleet, std::shared_ptr<Encoder> encoder,
                            std::chrono::milliseconds hello_limit) {
    auto stream = std::make_shared<AttachStream>(fleet, std::move(encoder));
    stream->self_ = stream;
    // gRPC keeps what an alarm calls as long as the alarm, which the stream has: a circle if it
    // held the stream.
    stream->hello_alarm_.Set(std::chrono::system_clock::now() + hello_limit,
                             [weak = std::weak_ptr<AttachStream>(stream)](bool rang) {
                               const std::shared_ptr<AttachStream> late = weak.lock();
                               if (rang && late != nullptr) late->HelloIsLate();
                             });
    stream->StartRead(&stream->bytes_);
    return stream.get();
  }
  AttachStream(Fleet* fleet, std::shared_ptr<Encoder> encoder)
      : fleet_(fleet), encoder_(std::move(encoder)) {}

  void Send(Message message) override {
    std::lock_guard lock(mu_);
    if (finished_ || closing_) return;
    queue_.push_back(encoder_->Encode(message));
    WriteNextLocked();
  }

  void SendUrgent(Message message) override {
    std::lock_guard lock(mu_);
    if (finished_ || closing_) return;
    queue_.clear();
    queue_.push_back(encoder_->Encode(message));
    WriteNextLocked();
  }

  void Close(const absl::Status& status) override {
    std::lock_guard lock(mu_);
    if (finished_ || closing_) return;
    closing_ = true;
    close_status_ = ToGrpc(status);
    WriteNextLocked();
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      Leave();
      FinishNow(grpc::Status::OK);
      return;
    }
    v1::AttachRequest request;
    if (!grpc::SerializationTraits<v1::AttachRequest>::Deserialize(&bytes_, &request).ok()) {
      spdlog::warn("a worker's message is not an AttachRequest, its stream is ended");
      Leave();
      FinishNow(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "expected an AttachRequest"));
      return;
    }
    if (rank_ >= 0) {
      fleet_->OnMessage(rank_, std::move(request));
    } else if (!Greet(request)) {
      return;
    }
    std::lock_guard lock(mu_);
    if (!finished_) StartRead(&bytes_);
  }

  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mu_);
    writing_ = false;
    if (!ok) queue_.clear();  // the stream is broken; the pending read tells the fleet
    WriteNextLocked();
  }

  void OnCancel() override {
    Leave();
    FinishNow(grpc::Status(grpc::StatusCode::CANCELLED, "the stream was cancelled"));
  }

  void OnDone() override {
    Leave();
    hello_alarm_.Cancel();
    const std::shared_ptr<AttachStream> last = std::move(self_);
  }

 private:
  // The first message; false ends the stream.
  bool Greet(const v1::AttachRequest& request) {
    absl::StatusOr<int> rank = absl::InvalidArgumentError("the first message must be Hello");
    if (request.has_hello()) rank = fleet_->OnHello(shared_from_this(), request.hello());
    if (!rank.ok()) {
      spdlog::warn("a worker is refused: {}", rank.status().ToString());
      FinishNow(ToGrpc(rank.status()));
      return false;
    }
    {
      std::lock_guard lock(mu_);
      rank_ = *rank;
    }
    hello_alarm_.Cancel();
    return true;
  }

  void HelloIsLate() {
    {
      std::lock_guard lock(mu_);
      if (rank_ >= 0 || finished_) return;
    }
    spdlog::warn("a worker's stream has said no Hello in time, and is ended");
    FinishNow(grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no Hello came in time"));
  }

  // Tells the fleet once that the stream is gone.
  void Leave() {
    int rank = -1;
    {
      std::lock_guard lock(mu_);
      if (left_) return;
      rank = rank_;
      left_ = rank >= 0;
    }
    if (rank >= 0) fleet_->OnClosed(rank);
  }

  void FinishNow(const grpc::Status& status) {
    std::lock_guard lock(mu_);
    if (finished_) return;
    finished_ = true;
    queue_.clear();
    Finish(status);
  }

  void WriteNextLocked() {
    if (finished_ || writing_) return;
    if (!queue_.empty()) {
      written_ = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
      StartWrite(&written_);
    } else if (closing_) {
      finished_ = true;
      Finish(close_status_);
    }
  }

  Fleet* const fleet_;
  grpc::Alarm hello_alarm_;
  const std::shared_ptr<Encoder> encoder_;
  grpc::ByteBuffer bytes_;  // being read
  std::mutex mu_;
  int rank_ = -1;  // written before the read that follows it is started
  std::deque<grpc::ByteBuffer> queue_;
  grpc::ByteBuffer written_;
  bool writing_ = false;
  grpc::Status close_status_;
  bool closing_ = false;
  bool finished_ = false;
  bool left_ = false;
  std::shared_ptr<AttachStream> self_;
};

class Service final : public AttachService {
 public:
  Service(Fleet* fleet, std::chrono::milliseconds hello_limit)
      : fleet_(fleet), hello_limit_(hello_limit) {}
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Attach(
      grpc::CallbackServerContext*) override {
    return AttachStream::Make(fleet_, encoder_, hello_limit_);
  }

 private:
  Fleet* const fleet_;
  const std::shared_ptr<Encoder> encoder_ = std::make_shared<Encoder>();
  const std::chrono::milliseconds hello_limit_;
};

class GrpcControlServer final : public ControlServer {
 public:
  GrpcControlServer(Fleet* fleet, std::chrono::milliseconds hello_limit)
      : service_(fleet, hello_limit) {}
  ~GrpcControlServer() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
  }

  absl::Status Listen(const std::string& host, int port) {
    grpc::ServerBuilder builder;
    const std::string address = HostPort(host, port);
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    // Workers ask once a minute whether this end still lives.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
    builder.SetMaxReceiveMessageSize(64 << 20);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      server_.reset();
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address, " for workers: is the port in use?"));
    }
    return absl::OkStatus();
  }
  int port() const override { return port_; }

 private:
  Service service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ControlServer>> ControlServer::Start(
    const std::string& host, int port, Fleet* fleet, std::chrono::milliseconds hello_limit) {
  auto server = std::make_unique<GrpcControlServer>(fleet, hello_limit);
  if (absl::Status status = server->Listen(host, port); !status.ok()) return status;
  return server;
}

}  // namespace whalepod
