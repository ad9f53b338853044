// How HttpSession reads a request: its header first, and a large body only if it may come.
#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/http_batches.h"
#include "coordinator/api/http_session.h"
#include "coordinator/api/limits.h"

namespace whalepod {
namespace {

namespace beast = boost::beast;
namespace http = beast::http;

constexpr size_t kMostHeader = 16 << 10;
constexpr size_t kMostForm = kMostUpload + (64 << 10);  // a file, and what stands around it
constexpr size_t kRoomStep = 16 << 20;  // that a body whose length is not known takes at a time

}  // namespace

void HttpSession::Read() {
  if (closing_) return Close();
  busy_ = false;
  route_ = "other";
  upload_.clear();
  parser_.emplace();
  parser_->body_limit(std::numeric_limits<uint64_t>::max());  // until its header is known
  parser_->header_limit(kMostHeader);
  stream_.expires_after(options_.read_timeout);
  http::async_read_header(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) { self->OnHeader(error); });
}

void HttpSession::OnHeader(beast::error_code error) {
  if (error) return OnRead(error);
  const Request& request = parser_->get();
  const bool file =
      jobs_ != nullptr && IsFileUpload(View(request.method_string()), View(request.target()));
  most_body_ = file ? kMostForm : kMostBody;
  if (file) route_ = kBatchesRoute;
  const uint64_t length = parser_->content_length().value_or(0);
  if (length > most_body_) return OnRead(http::error::body_limit);
  parser_->body_limit(most_body_);
  large_ = file && (length > kMostBody || parser_->chunked());
  if (large_) {
    if (absl::Status s = AdmitUpload(length); !s.ok()) return Refuse(s);
  }
  if (request.version() == 11 && beast::iequals(request[http::field::expect], "100-continue")) {
    return Continue();
  }
  ReadBody();
}

absl::Status HttpSession::AdmitUpload(size_t bytes) {
  ASSIGN_OR_RETURN(caller_, CallerOf(parser_->get()));
  RETURN_IF_ERROR(jobs_->store().status());
  upload_until_ = std::chrono::steady_clock::now() + kLongestUpload;
  upload_room_ = kMostBody;  // which is free
  return bytes > upload_room_ ? TakeRoom(bytes) : absl::OkStatus();
}

absl::Status HttpSession::TakeRoom(size_t bytes) {
  ASSIGN_OR_RETURN(TransferRoom::Share share, jobs_->transfers().Take(caller_, bytes));
  upload_.push_back(std::move(share));
  upload_room_ += bytes;
  return absl::OkStatus();
}

void HttpSession::Continue() {
  auto response = std::make_shared<http::response<http::empty_body>>(http::status::continue_, 11);
  http::async_write(stream_, *response,
                    [self = shared_from_this(), response](beast::error_code error, size_t) {
                      error ? self->Close() : self->ReadBody();
                    });
}

void HttpSession::ReadBody() {
  if (large_) {
    parser_->eager(true);
    return ReadSome();
  }
  http::async_read(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) { self->OnRead(error); });
}

void HttpSession::ReadSome() {
  stream_.expires_at(
      std::min(upload_until_, std::chrono::steady_clock::now() + options_.upload_pause));
  http::async_read_some(
      stream_, buffer_, *parser_,
      [self = shared_from_this()](beast::error_code error, size_t) { self->OnSome(error); });
}

void HttpSession::OnSome(beast::error_code error) {
  if (error || parser_->is_done()) return OnRead(error);
  if (parser_->get().body().size() > upload_room_) {
    if (absl::Status s = TakeRoom(kRoomStep); !s.ok()) return Refuse(s);
  }
  ReadSome();
}

void HttpSession::OnRead(beast::error_code error) {
  if (error == http::error::body_limit) {
    BreakOff();
    return ReplyBad(413, absl::StrCat("the body is larger than ", most_body_, " bytes"));
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

void HttpSession::BreakOff() {
  request_ = parser_->release();
  request_.keep_alive(false);
  request_.body() = std::string();
  upload_.clear();
  if (most_body_ == kMostForm) linger_ = options_.upload_pause;  // as long as it may still send
}

void HttpSession::Refuse(const absl::Status& status) {
  BreakOff();
  ReplyError(status);
}

}  // namespace whalepod
