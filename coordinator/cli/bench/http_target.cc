#include "coordinator/cli/bench/http_target.h"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "coordinator/cli/bench/openai_stream.h"
#include "coordinator/text/text_json.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;

constexpr auto kRetry = std::chrono::milliseconds(50);
constexpr size_t kMostErrorBody = 64 << 10;

struct Url {
  std::string host, port = "80", prefix;
  std::string authority;  // as it stands, for the header
};

absl::StatusOr<Url> ParseUrl(const std::string& text) {
  const auto wrong = [&text](const char* what) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected http://HOST[:PORT], found ", QuotedText(text), ": ", what));
  };
  absl::string_view rest = text;
  if (!absl::ConsumePrefix(&rest, "http://")) return wrong("not http");
  Url url;
  const size_t slash = std::min(rest.find('/'), rest.size());
  url.prefix = std::string(absl::StripSuffix(rest.substr(slash), "/"));
  rest = rest.substr(0, slash);
  url.authority = std::string(rest);
  const size_t colon = rest.rfind(':');
  const bool has_port = colon != absl::string_view::npos && !absl::EndsWith(rest, "]");
  if (has_port) {
    url.port = std::string(rest.substr(colon + 1));
    rest = rest.substr(0, colon);
    int port = 0;
    if (!absl::SimpleAtoi(url.port, &port) || port < 1 || port > 65535) return wrong("no port");
  }
  if (absl::ConsumePrefix(&rest, "[")) rest = absl::StripSuffix(rest, "]");
  if (rest.empty()) return wrong("no host");
  url.host = std::string(rest);
  return url;
}

// One request and its answer on a connection of its own. Asynchronous underneath, because only
// there Beast has timeouts; each step is run to its end by the caller's thread.
class Call {
 public:
  Call(const tcp::resolver::results_type& peers, std::chrono::seconds silence)
      : peers_(peers), silence_(silence), stream_(io_) {
    // Not none, which Boost 1.74 takes for 0 where there is a Content-Length.
    parser_.body_limit(std::numeric_limits<uint64_t>::max());
  }

  // Sends, and reads the answer's head.
  beast::error_code Send(const http::request<http::string_body>& request) {
    beast::error_code error =
        Step([&](auto done) { stream_.async_connect(peers_, std::move(done)); });
    if (error) return error;
    beast::error_code ignored;
    stream_.socket().set_option(tcp::no_delay(true), ignored);
    error = Step([&](auto done) { http::async_write(stream_, request, std::move(done)); });
    if (error) return error;
    return Step(
        [&](auto done) { http::async_read_header(stream_, buffer_, parser_, std::move(done)); });
  }
  unsigned status() const { return parser_.get().result_int(); }
  bool done() const { return parser_.is_done(); }

  // The next piece of the body.
  beast::error_code Read(std::string* piece) {
    const beast::error_code error =
        Step([&](auto done) { http::async_read_some(stream_, buffer_, parser_, std::move(done)); });
    piece->clear();
    piece->swap(parser_.get().body());
    return error;
  }

  // What is left of it, as far as it is read.
  beast::error_code ReadAll(size_t most, std::string* body) {
    for (std::string piece; !done() && body->size() < most;) {
      const beast::error_code error = Read(&piece);
      *body += piece;
      if (error) return error;
    }
    return {};
  }

 private:
  template <typename Start>
  beast::error_code Step(Start start) {
    beast::error_code result;
    stream_.expires_after(silence_);
    start([&result](const beast::error_code& error, const auto&...) { result = error; });
    io_.restart();
    io_.run();
    return result;
  }

  const tcp::resolver::results_type& peers_;
  const std::chrono::seconds silence_;
  asio::io_context io_{1};
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  http::response_parser<http::string_body> parser_;
};

// The message of an OpenAI error body, or the body.
std::string ErrorText(const std::string& body) {
  const nlohmann::json json = nlohmann::json::parse(body, nullptr, false);
  const nlohmann::json* const error = json.is_object() ? Member(json, "error") : nullptr;
  const nlohmann::json* const message =
      error != nullptr && error->is_object() ? Member(*error, "message") : nullptr;
  return message != nullptr && message->is_string() ? message->get<std::string>()
                                                    : QuotedText(body);
}

class BeastTarget final : public HttpTarget {
 public:
  BeastTarget(HttpTargetOptions options, Url url)
      : options_(std::move(options)), url_(std::move(url)), model_(options_.model) {}

  const std::string& model() const override { return model_; }

  absl::Status Resolve() {
    asio::io_context io;
    beast::error_code error;
    peers_ = tcp::resolver(io).resolve(url_.host, url_.port, error);
    if (error) return absl::NotFoundError(absl::StrCat(url_.host, ": ", error.message()));
    return absl::OkStatus();
  }

  absl::Status WaitModel() {
    const TimePoint deadline = Clock::Real()->Now() + options_.wait;
    for (;;) {
      const absl::Status status = AskModel();
      if (!absl::IsUnavailable(status)) return status;
      if (Clock::Real()->Now() + kRetry > deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat(options_.base_url, " was not ready after ",
                         std::chrono::duration_cast<std::chrono::seconds>(options_.wait).count(),
                         " s: ", status.message()));
      }
      std::this_thread::sleep_for(kRetry);
    }
  }

  void Run(const v1::GenerateRequest& request, const LoadClock& clock,
           LoadRecord* record) override {
    const StreamedCall made = MakeStreamedCall(request, model_);
    record->input_tokens = request.token_ids().ids_size();  // until the server says
    const auto fail = [record](std::string name, std::string message) {
      record->failure = std::move(name);
      record->message = std::move(message);
    };
    Call call(peers_, options_.silence);
    if (const auto error = call.Send(MakeRequest(http::verb::post, made.path, made.body))) {
      return fail("UNAVAILABLE", error.message());
    }
    std::string piece;
    if (call.status() != 200) {
      call.ReadAll(kMostErrorBody, &piece);
      return fail(absl::StrCat("HTTP ", call.status()), ErrorText(piece));
    }
    OpenAiStream stream(record);
    while (!stream.done() && !call.done()) {
      const beast::error_code error = call.Read(&piece);
      stream.Feed(piece, clock.Now());
      if (error && !stream.done()) {
        stream.End();
        record->message = error.message();
        return;
      }
    }
    stream.End();
  }

 private:
  http::request<http::string_body> MakeRequest(http::verb verb, const std::string& path,
                                               std::string body) const {
    http::request<http::string_body> request(verb, url_.prefix + path, 11);
    request.set(http::field::host, url_.authority);
    request.set(http::field::connection, "close");
    if (!options_.api_key.empty()) {
      request.set(http::field::authorization, "Bearer " + options_.api_key);
    }
    if (!body.empty()) request.set(http::field::content_type, "application/json");
    request.body() = std::move(body);
    request.prepare_payload();
    return request;
  }

  struct Page {
    unsigned status = 0;
    std::string body;
    std::string Text() const { return absl::StrCat("HTTP ", status, ": ", ErrorText(body)); }
  };
  absl::StatusOr<Page> Get(const std::string& path) const {
    Call call(peers_, options_.silence);
    Page page;
    auto error = call.Send(MakeRequest(http::verb::get, path, ""));
    if (!error) error = call.ReadAll(size_t{16} << 20, &page.body);
    if (error) return absl::UnavailableError(error.message());
    page.status = call.status();
    return page;
  }

  // UNAVAILABLE: may be better later.
  absl::Status AskModel() {
    // Many tell their models before they can run them. Not every server has this page.
    ASSIGN_OR_RETURN(const Page health, Get("/health"));
    if (health.status == 503) return absl::UnavailableError(health.Text());
    ASSIGN_OR_RETURN(const Page page, Get("/v1/models"));
    const std::string& body = page.body;
    if (page.status == 401 || page.status == 403) return absl::UnauthenticatedError(page.Text());
    if (page.status != 200) return absl::UnavailableError(page.Text());
    if (!model_.empty()) return absl::OkStatus();
    const nlohmann::json json = nlohmann::json::parse(body, nullptr, false);
    const nlohmann::json* const data = json.is_object() ? Member(json, "data") : nullptr;
    if (data == nullptr || !data->is_array() || data->empty() || !(*data)[0].is_object() ||
        !(*data)[0].value("id", nlohmann::json()).is_string()) {
      return absl::NotFoundError(
          absl::StrCat(options_.base_url, "/v1/models names no model: ", QuotedText(body)));
    }
    model_ = (*data)[0]["id"].get<std::string>();
    return absl::OkStatus();
  }

  const HttpTargetOptions options_;
  const Url url_;
  std::string model_;
  tcp::resolver::results_type peers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpTarget>> HttpTarget::Connect(HttpTargetOptions options) {
  ASSIGN_OR_RETURN(Url url, ParseUrl(options.base_url));
  auto target = std::make_unique<BeastTarget>(std::move(options), std::move(url));
  RETURN_IF_ERROR(target->Resolve());
  RETURN_IF_ERROR(target->WaitModel());
  return target;
}

}  // namespace whalepod
