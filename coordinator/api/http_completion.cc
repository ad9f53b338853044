#include "coordinator/api/http_completion.h"

#include <sys/socket.h>

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/limits.h"

namespace whalepod {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

int64_t SecondsNow() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

HttpSession::Completion::Part::Part(Completion* whole, uint32_t prompt, v1::GenerateRequest request)
    : whole(whole),
      prompt(prompt),
      request(std::move(request)),
      generation(
          std::make_shared<Generation>(this, whole->session_->frontend_->clock(),
                                       whole->session_->frontend_->NewRecord(Transport::kHttp))) {}

// Whoever holds the request keeps the answer: until the generation has begun it may be ended only
// by it.
Frontend::Call HttpSession::Completion::Part::call() {
  return {generation,
          std::shared_ptr<const v1::GenerateRequest>(whole->shared_from_this(), &request)};
}

bool HttpSession::Completion::Part::Write(const v1::GenerateResponse& message, bool last) {
  asio::post(whole->session_->executor(), [self = whole->shared_from_this(), this, &message, last] {
    self->OnMessage(*this, message, last);
  });
  return false;
}

void HttpSession::Completion::Part::Finish(const absl::Status& status) {
  asio::post(whole->session_->executor(),
             [self = whole->shared_from_this(), this, status] { self->OnEnd(*this, status); });
}

void HttpSession::Completion::Part::Abandon() {
  asio::post(whole->session_->executor(), [self = whole->shared_from_this()] { self->Gone(); });
}

HttpSession::Completion::Completion(std::shared_ptr<HttpSession> session, OpenAiRequest request)
    : session_(std::move(session)),
      stream_(request.stream),
      response_(request, ChoicesOf(request.generate), session_->frontend_->model()->text.tokenizer,
                SecondsNow()),
      open_(1 + request.more.size()),
      heartbeat_(session_->executor()) {
  parts_.emplace_back(this, 0, std::move(request.generate));
  for (v1::GenerateRequest& more : request.more) {
    parts_.emplace_back(this, static_cast<uint32_t>(parts_.size()), std::move(more));
  }
}

void HttpSession::Completion::Begin() {
  std::vector<Frontend::Call> calls;
  for (Part& part : parts_) calls.push_back(part.call());
  session_->frontend_->Generate(std::move(calls), session_->caller_);
}

void HttpSession::Completion::Watch() {
  session_->stream_.socket().async_wait(
      asio::ip::tcp::socket::wait_read,
      [self = shared_from_this()](beast::error_code error) { self->OnReadable(error); });
}

void HttpSession::Completion::OnReadable(beast::error_code error) {
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

void HttpSession::Completion::OnMessage(Part& part, const v1::GenerateResponse& message,
                                        bool last) {
  if (ended()) return part.generation->OnWritten(false);
  if (last) --open_;
  if (message.has_started()) ++started_;
  if (!stream_) {
    response_.Gather(message, part.prompt);
    if (open_ == 0) return End(200, response_.Whole());
    if (!last) part.generation->OnWritten(true);
    return;
  }
  pending_ += response_.Events(message, part.prompt);
  part.due = !last;
  if (open_ == 0) {
    pending_ += response_.LastEvents();
    last_ = true;
  }
  if (header_sent_) return Flush();
  if (started_ == parts_.size()) SendHeader();
}

void HttpSession::Completion::OnEnd(const Part& part, const absl::Status& status) {
  if (ended()) return;
  CancelAllBut(&part);
  const HttpError error = ToHttpError(
      parts_.size() == 1 ? status : Annotate(status, absl::StrCat("prompt ", part.prompt)));
  if (!header_sent_) return End(error.status, error.body, error.retry_after_ms);
  pending_ += absl::StrCat("data: ", error.body, "\n\ndata: [DONE]\n\n");
  last_ = true;
  Flush();
}

void HttpSession::Completion::SendHeader() {
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

void HttpSession::Completion::Flush() {
  if (writing_ || over_) return;
  if (pending_.empty()) {
    for (Part& part : parts_) {
      if (std::exchange(part.due, false)) part.generation->OnWritten(true);
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

void HttpSession::Completion::OnFlushed(beast::error_code error) {
  writing_ = false;
  if (over_) return;
  if (error) return Gone();
  if (last_ && pending_.empty()) return SendLastChunk();
  Beat();
  Flush();
}

void HttpSession::Completion::SendLastChunk() {
  if (!chunked()) return Leave(false);
  asio::async_write(session_->stream_, http::make_chunk_last(),
                    [self = shared_from_this()](beast::error_code error, size_t) {
                      self->Leave(!error && self->keep_alive());
                    });
}

void HttpSession::Completion::Beat() {
  heartbeat_.expires_after(session_->options_.heartbeat);
  heartbeat_.async_wait([self = shared_from_this()](beast::error_code error) {
    if (error || self->writing_ || self->ended()) return;
    self->pending_ += ": keep-alive\n\n";
    self->Flush();
  });
}

void HttpSession::Completion::End(int status, std::string body, uint32_t retry_after_ms) {
  over_ = true;
  const std::shared_ptr<HttpSession> session = session_;
  session->completion_.reset();
  session->Reply(status, std::move(body), retry_after_ms);
}

void HttpSession::Completion::Gone() {
  if (over_) return;
  CancelAllBut(nullptr);
  Leave(false);
}

void HttpSession::Completion::Leave(bool keep_alive) {
  over_ = true;
  heartbeat_.cancel();
  const std::shared_ptr<HttpSession> session = session_;
  session->completion_.reset();
  session->Done(keep_alive);
}

void HttpSession::Completion::CancelAllBut(const Part* part) {
  for (Part& other : parts_) {
    if (&other != part) other.generation->Cancel();
  }
}

}  // namespace whalepod
