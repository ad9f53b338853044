#include "coordinator/api/http_session.h"

#include <sys/socket.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <chrono>
#include <functional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/http_batches.h"
#include "coordinator/api/openai_request.h"

namespace whalepod {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr size_t kMostBody = 4 << 20;
constexpr size_t kMostHeader = 16 << 10;
// How long what a client still sends is read after an answer that ends the connection: closed at
// once, it would lose the answer.
constexpr std::chrono::seconds kLinger(2);
constexpr absl::string_view kOneModel = "/v1/models/";
constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";

absl::string_view View(beast::string_view text) { return {text.data(), text.size()}; }

int64_t SecondsNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

nlohmann::ordered_json ModelObject(const ServedModel& model) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "whalepod"},
          {"root", model.name},
          {"parent", nullptr},
          {"max_model_len", model.max_model_len}};
}

}  // namespace

// Writes what a Generation hands on: as one body at the end, or as chunks of server-sent events.
// Nothing is sent before the engine has taken the request, so that a refusal has its own status.
class HttpSession::Completion final : public ResponseWriter,
                                      public std::enable_shared_from_this<Completion> {
 public:
  Completion(std::shared_ptr<HttpSession> session, OpenAiRequest request)
      : session_(std::move(session)),
        stream_(request.stream),
        response_(request, std::max(1u, request.generate.options().n()),
                  session_->frontend_->model()->text.tokenizer, SecondsNow()),
        request_(std::move(request.generate)),
        generation_(std::make_shared<Generation>(this, session_->frontend_->clock(),
                                                 session_->frontend_->NewRecord(Transport::kHttp))),
        heartbeat_(session_->executor()) {}

  // Whoever holds the request keeps the answer: until the generation has begun it may be ended
  // only by it.
  void Begin() {
    session_->frontend_->Generate(
        generation_, std::shared_ptr<const v1::GenerateRequest>(shared_from_this(), &request_),
        session_->caller_);
  }

  // From any thread, under the generation's lock.
  bool Write(const v1::GenerateResponse& message, bool last) override {
    asio::post(session_->executor(),
               [self = shared_from_this(), &message, last] { self->OnMessage(message, last); });
    return false;
  }
  void Finish(const absl::Status& status) override {
    asio::post(session_->executor(), [self = shared_from_this(), status] { self->OnEnd(status); });
  }
  void Abandon() override {
    asio::post(session_->executor(), [self = shared_from_this()] { self->Gone(); });
  }

  // Tells the generation when the client leaves.
  void Watch() {
    session_->stream_.socket().async_wait(
        asio::ip::tcp::socket::wait_read,
        [self = shared_from_this()](beast::error_code error) { self->OnReadable(error); });
  }

 private:
  // HTTP/1.0 has no chunks: a stream ends with its connection.
  bool chunked() const { return session_->request_.version() >= 11; }
  bool keep_alive() const { return chunked() && session_->request_.keep_alive(); }

  void OnReadable(beast::error_code error) {
    if (over_) return;
    if (error) return Gone();
    char byte;
    const ssize_t found =
        recv(session_->stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    // Bytes that are there belong to the next request.
    if (found > 0) return;
    // Told of bytes that had been read by then.
    if (found < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return Watch();
    Gone();
  }

  void OnMessage(const v1::GenerateResponse& message, bool last) {
    if (over_) return generation_->OnWritten(false);
    if (!stream_) {
      response_.Gather(message);
      if (!last) return generation_->OnWritten(true);
      return End(200, response_.Whole());
    }
    pending_ += response_.Events(message);
    if (last) pending_ += response_.LastEvents();
    last_ = last_ || last;
    message_due_ = true;
    if (!header_sent_) return SendHeader();
    Flush();
  }

  // The end by an error.
  void OnEnd(const absl::Status& status) {
    if (over_) return;
    const HttpError error = ToHttpError(status);
    if (!header_sent_) return End(error.status, error.body, error.retry_after_ms);
    pending_ += absl::StrCat("data: ", error.body, "\n\ndata: [DONE]\n\n");
    last_ = true;
    Flush();
  }

  void SendHeader() {
    header_sent_ = true;
    session_->Count(200);
    header_.emplace(http::status::ok, session_->request_.version());
    header_->set(http::field::content_type, "text/event-stream; charset=utf-8");
    header_->set(http::field::cache_control, "no-cache");
    header_->set("X-Accel-Buffering", "no");
    header_->keep_alive(keep_alive());
    header_->chunked(chunked());
    serializer_.emplace(*header_);
    writing_ = true;
    session_->stream_.expires_after(session_->options_.write_timeout);
    http::async_write_header(
        session_->stream_, *serializer_,
        [self = shared_from_this()](beast::error_code error, size_t) { self->OnFlushed(error); });
  }

  void Flush() {
    if (writing_ || over_) return;
    if (pending_.empty()) {
      if (message_due_) {
        message_due_ = false;
        generation_->OnWritten(true);
      }
      return;
    }
    sent_ = std::exchange(pending_, std::string());
    writing_ = true;
    session_->stream_.expires_after(session_->options_.write_timeout);
    const auto flushed = [self = shared_from_this()](beast::error_code error, size_t) {
      self->OnFlushed(error);
    };
    if (chunked()) {
      asio::async_write(session_->stream_, http::make_chunk(asio::buffer(sent_)), flushed);
    } else {
      asio::async_write(session_->stream_, asio::buffer(sent_), flushed);
    }
  }

  void OnFlushed(beast::error_code error) {
    writing_ = false;
    if (error) return Gone();
    if (last_ && pending_.empty()) return SendLastChunk();
    Beat();
    Flush();
  }

  void SendLastChunk() {
    if (!chunked()) return Leave(false);
    asio::async_write(session_->stream_, http::make_chunk_last(),
                      [self = shared_from_this()](beast::error_code error, size_t) {
                        self->Leave(!error && self->keep_alive());
                      });
  }

  // A comment after some silence, so that proxies and clients keep the connection.
  void Beat() {
    heartbeat_.expires_after(session_->options_.heartbeat);
    heartbeat_.async_wait([self = shared_from_this()](beast::error_code error) {
      if (error || self->over_ || self->writing_ || self->last_) return;
      self->pending_ += ": keep-alive\n\n";
      self->Flush();
    });
  }

  // One body, whole.
  void End(int status, std::string body, uint32_t retry_after_ms = 0) {
    over_ = true;
    const std::shared_ptr<HttpSession> session = session_;
    session->completion_.reset();
    session->Reply(status, std::move(body), retry_after_ms);
  }

  void Gone() {
    if (over_) return;
    generation_->Cancel();
    Leave(false);
  }

  void Leave(bool keep_alive) {
    over_ = true;
    heartbeat_.cancel();
    const std::shared_ptr<HttpSession> session = session_;
    session->completion_.reset();
    session->Done(keep_alive);
  }

  const std::shared_ptr<HttpSession> session_;
  const bool stream_;
  OpenAiResponse response_;
  const v1::GenerateRequest request_;
  const std::shared_ptr<Generation> generation_;
  asio::steady_timer heartbeat_;
  std::optional<http::response<http::empty_body>> header_;
  std::optional<http::response_serializer<http::empty_body>> serializer_;
  std::string pending_, sent_;
  bool header_sent_ = false;
  bool writing_ = false;
  bool message_due_ = false;  // the generation waits for OnWritten
  bool last_ = false;
  bool over_ = false;  // nothing more is written
};

HttpSession::HttpSession(asio::ip::tcp::socket socket, const HttpServer::Options& options,
                         Frontend* frontend, JobApi* jobs, std::shared_ptr<std::atomic<int>> open)
    : stream_(std::move(socket)),
      options_(options),
      frontend_(frontend),
      jobs_(jobs),
      open_(std::move(open)) {}

HttpSession::~HttpSession() { --*open_; }

void HttpSession::Read() {
  if (closing_) return Close();
  busy_ = false;
  route_ = "other";
  parser_.emplace();
  parser_->body_limit(kMostBody);
  parser_->header_limit(kMostHeader);
  stream_.expires_after(options_.read_timeout);
  http::async_read(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) { self->OnRead(error); });
}

void HttpSession::OnRead(beast::error_code error) {
  if (error == http::error::body_limit) {
    request_ = parser_->release();
    request_.keep_alive(false);
    return ReplyBad(413, absl::StrCat("the body is larger than ", kMostBody, " bytes"));
  }
  if (error && error.category() == http::make_error_code(http::error::bad_method).category() &&
      error != http::error::end_of_stream && error != http::error::partial_message) {
    request_ = Request();
    request_.keep_alive(false);
    return ReplyBad(400, absl::StrCat("not HTTP: ", error.message()));
  }
  if (error) return Close();
  request_ = parser_->release();
  stream_.expires_never();
  busy_ = true;
  Route();
}

absl::Span<const HttpSession::Endpoint> HttpSession::Endpoints() {
  static constexpr Endpoint kEndpoints[] = {
      {"/health", Method::kGet, Access::kAll, &HttpSession::Readiness},
      {"/readyz", Method::kGet, Access::kAll, &HttpSession::Readiness},
      {"/healthz", Method::kGet, Access::kAll, &HttpSession::Liveness},
      {"/livez", Method::kGet, Access::kAll, &HttpSession::Liveness},
      {"/ping", Method::kGet, Access::kAll, &HttpSession::Liveness},
      {"/version", Method::kGet, Access::kAll, &HttpSession::Version},
      {"/metrics", Method::kGet, Access::kAll, &HttpSession::Metrics},
      {"/v1/models", Method::kGet, Access::kKey, &HttpSession::ListModels},
      {"/v1/chat/completions", Method::kPost, Access::kKey, &HttpSession::ChatCompletion},
      {"/v1/completions", Method::kPost, Access::kKey, &HttpSession::TextCompletion},
      {"/tokenize", Method::kPost, Access::kKey, &HttpSession::Tokenize},
      {"/detokenize", Method::kPost, Access::kKey, &HttpSession::Detokenize}};
  return kEndpoints;
}

void HttpSession::Route() {
  const absl::string_view target = View(request_.target());
  const std::string path(target.substr(0, target.find('?')));
  const bool get = request_.method() == http::verb::get || request_.method() == http::verb::head;
  const bool post = request_.method() == http::verb::post;
  const absl::Span<const Endpoint> endpoints = Endpoints();
  const auto known = std::find_if(endpoints.begin(), endpoints.end(),
                                  [&](const Endpoint& endpoint) { return endpoint.path == path; });
  const bool one_model = absl::StartsWith(path, kOneModel);
  const bool batches = jobs_ != nullptr && IsBatchPath(path);
  route_ = known != endpoints.end() ? known->path
           : one_model              ? "/v1/models/{id}"
           : batches                ? "batches"
                                    : "other";
  if (known != endpoints.end() && !(known->method == Method::kGet ? get : post)) {
    return ReplyBad(405,
                    absl::StrCat(path, " takes ", known->method == Method::kGet ? "GET" : "POST"));
  }
  if (known == endpoints.end() || known->access == Access::kKey) {
    const auto authorization = request_.find(http::field::authorization);
    absl::StatusOr<std::string> caller = frontend_->CallerOf(
        authorization == request_.end() ? absl::string_view() : View(authorization->value()));
    if (!caller.ok()) return ReplyError(caller.status());
    caller_ = *std::move(caller);
  }
  if (known != endpoints.end()) return (this->*known->answer)();
  if (batches) return Batches(std::string(target));
  if (one_model && get) return DescribeModel(path.substr(kOneModel.size()));
  ReplyError(absl::NotFoundError(absl::StrCat("there is no ", path.substr(0, 100))));
}

void HttpSession::Readiness() { Reply(frontend_->ready() ? 200 : 503, ""); }

void HttpSession::Liveness() { Reply(200, ""); }

void HttpSession::Version() {
  Reply(200, absl::StrCat("{\"version\":\"", WHALEPOD_VERSION, "\"}"));
}

void HttpSession::Metrics() { Reply(200, frontend_->MetricsText(), 0, kMetricsType); }

void HttpSession::ChatCompletion() { Complete(ParseChatCompletion(request_.body())); }

void HttpSession::TextCompletion() { Complete(ParseCompletion(request_.body())); }

void HttpSession::Tokenize() {
  absl::StatusOr<v1::TokenizeRequest> request = ParseTokenize(request_.body());
  if (!request.ok()) return ReplyError(request.status());
  Later([this, request = *std::move(request)]() -> absl::StatusOr<std::string> {
    v1::TokenizeResponse response;
    if (absl::Status s = frontend_->Tokenize(request, &response); !s.ok()) return s;
    const auto& ids = response.token_ids().ids();
    return nlohmann::json{{"count", ids.size()},
                          {"max_model_len", response.max_model_len()},
                          {"tokens", std::vector<uint32_t>(ids.begin(), ids.end())}}
        .dump();
  });
}

void HttpSession::Detokenize() {
  absl::StatusOr<v1::DetokenizeRequest> request = ParseDetokenize(request_.body());
  if (!request.ok()) return ReplyError(request.status());
  Later([this, request = *std::move(request)]() -> absl::StatusOr<std::string> {
    v1::DetokenizeResponse response;
    if (absl::Status s = frontend_->Detokenize(request, &response); !s.ok()) return s;
    return nlohmann::json{{"prompt", response.text()}}.dump();
  });
}

void HttpSession::Batches(const std::string& target) {
  BatchCall call;
  call.method = std::string(View(request_.method_string()));
  call.target = target;
  call.content_type = std::string(View(request_[http::field::content_type]));
  call.idempotency_key = std::string(View(request_["Idempotency-Key"]));
  call.body = std::move(request_.body());
  const absl::Status queued = jobs_->Run([self = shared_from_this(), call = std::move(call)] {
    asio::post(self->executor(), [self, reply = AnswerBatch(*self->jobs_, self->caller_, call)] {
      if (!reply.ok()) return self->ReplyError(reply.status());
      self->Reply(reply->status, reply->body, 0, reply->content_type);
    });
  });
  if (!queued.ok()) ReplyError(queued);
}

void HttpSession::ListModels() {
  const nlohmann::ordered_json models = {ModelObject(*frontend_->model())};
  Reply(200, nlohmann::ordered_json{{"object", "list"}, {"data", models}}.dump());
}

void HttpSession::DescribeModel(const std::string& name) {
  const std::shared_ptr<const ServedModel> model = frontend_->model();
  if (absl::Status s = CheckModelName(*model, name); !s.ok()) return ReplyError(s);
  Reply(200, ModelObject(*model).dump());
}

void HttpSession::Complete(absl::StatusOr<OpenAiRequest> parsed) {
  if (!parsed.ok()) {
    const std::optional<v1::ErrorDetail> detail = DetailOf(parsed.status());
    frontend_->NewRecord(Transport::kHttp)
        .OnEnd(parsed.status(), detail.has_value() ? detail->reason() : "",
               frontend_->clock()->Now());
    return ReplyError(parsed.status());
  }
  const auto id = request_.find("X-Request-Id");
  if (id != request_.end()) parsed->generate.set_request_id(std::string(View(id->value())));
  completion_ = std::make_shared<Completion>(shared_from_this(), *std::move(parsed));
  const std::shared_ptr<Completion> completion = completion_;
  completion->Watch();
  completion->Begin();
}

void HttpSession::Later(std::function<absl::StatusOr<std::string>()> work) {
  const absl::Status queued =
      frontend_->RunTextWork([self = shared_from_this(), work = std::move(work)] {
        asio::post(self->executor(), [self, body = work()] {
          if (!body.ok()) return self->ReplyError(body.status());
          self->Reply(200, *body);
        });
      });
  if (!queued.ok()) ReplyError(queued);
}

void HttpSession::ReplyError(const absl::Status& status) {
  HttpError error = ToHttpError(status);
  Reply(error.status, std::move(error.body), error.retry_after_ms);
}

void HttpSession::ReplyBad(int status, const std::string& message) {
  Reply(status, ToHttpError(absl::InvalidArgumentError(message)).body);
}

void HttpSession::Count(int status) {
  frontend_->metrics()->RecordHttpResponse(std::string(route_), status);
}

void HttpSession::Reply(int status, std::string body, uint32_t retry_after_ms,
                        const std::string& type) {
  Count(status);
  auto response = std::make_shared<http::response<http::string_body>>();
  response->result(static_cast<unsigned>(status));
  response->version(request_.version() == 10 ? 10 : 11);
  if (!body.empty()) response->set(http::field::content_type, type);
  if (retry_after_ms > 0) {
    response->set(http::field::retry_after, absl::StrCat((retry_after_ms + 999) / 1000));
  }
  const auto id = request_.find("X-Request-Id");
  if (id != request_.end()) response->set("X-Request-Id", id->value());
  response->keep_alive(request_.keep_alive());
  response->body() = std::move(body);
  response->prepare_payload();
  if (request_.method() == http::verb::head) response->body().clear();
  stream_.expires_after(options_.write_timeout);
  http::async_write(stream_, *response,
                    [self = shared_from_this(), response](beast::error_code error, size_t) {
                      self->Done(!error && response->keep_alive());
                    });
}

void HttpSession::Done(bool keep_alive) {
  if (keep_alive) return Read();
  beast::error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(kLinger);
  Drain();
}

void HttpSession::Drain() {
  buffer_.clear();
  stream_.async_read_some(buffer_.prepare(64 << 10),
                          [self = shared_from_this()](beast::error_code error, size_t) {
                            error ? self->Close() : self->Drain();
                          });
}

void HttpSession::CloseWhenIdle() {
  closing_ = true;
  if (!busy_) Close();
}

void HttpSession::Close() {
  beast::error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.close();
}

}  // namespace whalepod
