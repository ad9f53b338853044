#include "coordinator/api/http_download.h"

#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <utility>

#include "base/log.h"

namespace whalepod {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

HttpSession::Download::Download(std::shared_ptr<HttpSession> session, BatchReply reply)
    : session_(std::move(session)),
      piece_(std::move(reply.body)),
      more_(std::move(reply.more)),
      chunked_(!reply.bytes.has_value()),
      header_(http::status::ok, session_->request_.version()) {
  header_.set(http::field::content_type, reply.content_type);
  session_->SetCommon(&header_);
  header_.keep_alive(session_->request_.keep_alive());
  if (chunked_) {
    header_.chunked(true);
  } else {
    header_.content_length(static_cast<uint64_t>(*reply.bytes));
  }
}

void HttpSession::Download::Begin() {
  session_->Count(200);
  session_->stream_.expires_after(session_->options_.write_timeout);
  http::async_write_header(session_->stream_, serializer_,
                           [self = shared_from_this()](beast::error_code error, size_t) {
                             error ? self->OnSent(error) : self->Send();
                           });
}

void HttpSession::Download::Send() {
  if (piece_.empty()) return Fetch();
  session_->stream_.expires_after(session_->options_.write_timeout);
  const auto sent = [self = shared_from_this()](beast::error_code error, size_t) {
    self->OnSent(error);
  };
  if (chunked_) {
    asio::async_write(session_->stream_, http::make_chunk(asio::buffer(piece_)), sent);
  } else {
    asio::async_write(session_->stream_, asio::buffer(piece_), sent);
  }
}

void HttpSession::Download::OnSent(beast::error_code error) {
  if (error) return session_->Done(false);
  Fetch();
}

void HttpSession::Download::Fetch() {
  session_->stream_.expires_never();
  session_->jobs_->RunAlways([self = shared_from_this()] {
    asio::post(self->session_->executor(),
               [self, piece = self->more_()]() mutable { self->OnPiece(std::move(piece)); });
  });
}

void HttpSession::Download::OnPiece(absl::StatusOr<std::string> piece) {
  if (!piece.ok()) {
    spdlog::warn("HTTP: a file broke off while it was sent: {}", piece.status().ToString());
    return session_->Close();
  }
  if (piece->empty()) return End();
  piece_ = *std::move(piece);
  Send();
}

void HttpSession::Download::End() {
  if (!chunked_) return session_->Done(header_.keep_alive());
  session_->stream_.expires_after(session_->options_.write_timeout);
  asio::async_write(session_->stream_, http::make_chunk_last(),
                    [self = shared_from_this()](beast::error_code error, size_t) {
                      self->session_->Done(!error && self->header_.keep_alive());
                    });
}

}  // namespace whalepod
