// One HTTP connection: reads a request, answers it, and again.
#pragma once

#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/http_server.h"
#include "coordinator/api/openai_response.h"

namespace whalepod {

// Everything runs on the connection's strand. Lives as long as an operation of it is under way.
class HttpSession : public std::enable_shared_from_this<HttpSession> {
 public:
  // jobs: null for none. `place`: held until all else of the session is gone.
  HttpSession(boost::asio::ip::tcp::socket socket, const HttpServer::Options& options,
              Frontend* frontend, JobApi* jobs, std::shared_ptr<const void> place);

  // Reads the next request. Call on the strand.
  void Read();
  auto executor() { return stream_.get_executor(); }
  // Closes the connection once the answer under way is written, at once if there is none.
  void CloseWhenIdle();
  void Close();

 private:
  // How long what a client still sends is read after an answer that ends the connection: closed at
  // once, it would lose the answer.
  static constexpr std::chrono::seconds kLinger{2};
  // Read and not yet parsed; more than a header, or a chunk's, may have.
  static constexpr size_t kMostBuffer = 256 << 10;

  static constexpr absl::string_view kBatchesRoute = "batches";

  class Completion;  // an answer that is generated
  class Download;    // a file that is read piece by piece
  using Request = boost::beast::http::request<boost::beast::http::string_body>;

  // The header is there: reads the body, if it may come.
  void OnHeader(boost::beast::error_code error);
  // For an upload of `bytes`, 0 if that is not known: that its caller may make one, and room.
  absl::Status AdmitUpload(size_t bytes);
  absl::Status TakeRoom(size_t bytes);
  // Tells a client that waits for it to send its body.
  void Continue();
  void ReadBody();
  // A large body comes bit by bit: it may take long, but not pause long.
  void ReadSome();
  void OnSome(boost::beast::error_code error);
  void OnRead(boost::beast::error_code error);
  static absl::string_view View(boost::beast::string_view text) {
    return {text.data(), text.size()};
  }
  enum class Method { kGet, kPost };
  enum class Access { kAll, kKey };  // whom it answers: everybody, or who has an API key
  // A path, and what answers it.
  struct Endpoint {
    absl::string_view path;
    Method method;
    Access access;
    void (HttpSession::*answer)();
  };
  static absl::Span<const Endpoint> Endpoints();

  void Route();
  absl::StatusOr<std::string> CallerOf(const Request& request) const;
  void Readiness();
  void Liveness();
  void Version();
  void Metrics();
  void ListModels();
  void DescribeModel(const std::string& name);
  void ChatCompletion();
  void TextCompletion();
  void Tokenize();
  void Detokenize();
  void Complete(absl::StatusOr<OpenAiRequest> parsed);
  // Runs `work`, which gives a body, on a thread for text.
  void Later(std::function<absl::StatusOr<std::string>()> work);
  // Files and batches: `target` with its query.
  void Batches(const std::string& target);
  // body: of media type `type`, or empty.
  void Reply(int status, std::string body, uint32_t retry_after_ms = 0,
             const std::string& type = "application/json");
  // What every answer's header has.
  void SetCommon(boost::beast::http::fields* header) const;
  // An answer with this status begins.
  void Count(int status);
  void ReplyError(const absl::Status& status);
  // The same to an upload whose body is not read.
  void Refuse(const absl::Status& status);
  // Lets go of what has come of a request that is not read to its end.
  void BreakOff();
  // For what only HTTP knows: the request is wrong, and the status is not its code's.
  void ReplyBad(int status, const std::string& message);
  // The answer is written.
  void Done(bool keep_alive);
  // Reads what the client still sends, until it closes or its time is over.
  void Drain();

  const std::shared_ptr<const void> place_;
  boost::beast::tcp_stream stream_;
  const HttpServer::Options options_;
  Frontend* const frontend_;
  JobApi* const jobs_;
  boost::beast::flat_buffer buffer_{kMostBuffer};
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;
  size_t most_body_ = 0;  // bytes that this request may have
  Request request_;
  bool large_ = false;      // the body is an upload that takes room
  size_t upload_room_ = 0;  // how far that goes
  std::vector<TransferRoom::Share> upload_;
  std::chrono::steady_clock::time_point upload_until_;
  std::string caller_;       // who asks
  absl::string_view route_;  // what its path is counted as; static
  std::shared_ptr<Completion> completion_;
  std::chrono::milliseconds linger_ = kLinger;
  bool closing_ = false;
  std::atomic<bool> closed_{false};
  bool busy_ = false;  // a request is being answered
};

}  // namespace whalepod
