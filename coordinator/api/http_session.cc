#include "coordinator/api/http_session.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <functional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/http_batches.h"
#include "coordinator/api/http_completion.h"
#include "coordinator/api/http_download.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/openai_request.h"

namespace whalepod {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr absl::string_view kOneModel = "/v1/models/";
constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";

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

HttpSession::HttpSession(asio::ip::tcp::socket socket, const HttpServer::Options& options,
                         Frontend* frontend, JobApi* jobs, std::shared_ptr<const void> place)
    : place_(std::move(place)),
      stream_(std::move(socket)),
      options_(options),
      frontend_(frontend),
      jobs_(jobs) {}

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
           : batches                ? kBatchesRoute
                                    : "other";
  if (known != endpoints.end() && !(known->method == Method::kGet ? get : post)) {
    return ReplyBad(405,
                    absl::StrCat(path, " takes ", known->method == Method::kGet ? "GET" : "POST"));
  }
  if (known == endpoints.end() || known->access == Access::kKey) {
    absl::StatusOr<std::string> caller = CallerOf(request_);
    if (!caller.ok()) return ReplyError(caller.status());
    caller_ = *std::move(caller);
  }
  if (known != endpoints.end()) return (this->*known->answer)();
  if (batches) return Batches(std::string(target));
  if (one_model && get) return DescribeModel(path.substr(kOneModel.size()));
  ReplyError(absl::NotFoundError(absl::StrCat("there is no ", path.substr(0, 100))));
}

absl::StatusOr<std::string> HttpSession::CallerOf(const Request& request) const {
  return frontend_->CallerOf(View(request[http::field::authorization]));
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
  call.chunks = request_.version() >= 11;
  const bool takes_long = call.body.size() > kMostBody || MakesBatch(call.method, call.target);
  auto work = [self = shared_from_this(), call = std::move(call),
               upload = std::move(upload_)]() mutable {
    if (self->closed_) return;  // shut down in the meantime
    auto answer = AnswerBatch(*self->jobs_, self->caller_, call);
    // Given back before the client learns the end, and may send the next one.
    call.body = std::string();
    upload.clear();
    asio::post(self->executor(), [self, reply = std::move(answer)]() mutable {
      if (!reply.ok()) return self->ReplyError(reply.status());
      if (reply->more != nullptr) {
        return std::make_shared<Download>(self, *std::move(reply))->Begin();
      }
      self->Reply(reply->status, std::move(reply->body), 0, reply->content_type);
    });
  };
  const absl::Status queued =
      takes_long ? jobs_->RunLong(std::move(work)) : jobs_->Run(std::move(work));
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
  if (id != request_.end()) {
    parsed->generate.set_request_id(std::string(View(id->value())));
    for (v1::GenerateRequest& more : parsed->more) {
      more.set_request_id(parsed->generate.request_id());
    }
  }
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
  SetCommon(response.get());
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

void HttpSession::SetCommon(http::fields* header) const {
  const auto id = request_.find("X-Request-Id");
  if (id != request_.end()) header->set("X-Request-Id", id->value());
}

void HttpSession::Done(bool keep_alive) {
  if (keep_alive) return Read();
  beast::error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(linger_);
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
  closed_ = true;
  beast::error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  stream_.close();
}

}  // namespace whalepod
