// A body that is too long to be held whole. Part of HttpSession: include from its sources only.
#pragma once

#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/http_batches.h"
#include "coordinator/api/http_session.h"

namespace whalepod {

// Writes a reply piece by piece, each fetched when the one before is sent. An error that comes by
// then can only break the connection off.
class HttpSession::Download final : public std::enable_shared_from_this<Download> {
 public:
  Download(std::shared_ptr<HttpSession> session, BatchReply reply);
  void Begin();

 private:
  void Send();
  void OnSent(boost::beast::error_code error);
  void Fetch();
  void OnPiece(absl::StatusOr<std::string> piece);
  void End();

  const std::shared_ptr<HttpSession> session_;
  std::string piece_;  // being sent
  const BatchReply::More more_;
  const bool chunked_;  // its length is not known; HTTP/1.1
  boost::beast::http::response<boost::beast::http::empty_body> header_;
  boost::beast::http::response_serializer<boost::beast::http::empty_body> serializer_{header_};
};

}  // namespace whalepod
