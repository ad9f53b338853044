// An answer that is generated, over HTTP. Part of HttpSession: include from its sources only.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "coordinator/api/generation.h"
#include "coordinator/api/http_session.h"
#include "coordinator/api/openai_response.h"

namespace whalepod {

// Writes what the Generations of a request's prompts hand on: as one body at the end, or as chunks
// of server-sent events. Nothing is sent before the engine has taken all prompts, so that a refusal
// has its own status. If one of them fails, all do.
class HttpSession::Completion final : public std::enable_shared_from_this<Completion> {
 public:
  Completion(std::shared_ptr<HttpSession> session, OpenAiRequest request);

  void Begin();
  // Tells the generations when the client leaves.
  void Watch();

 private:
  // One prompt's generation. Its calls come from any thread, under the generation's lock.
  class Part final : public ResponseWriter {
   public:
    Part(Completion* whole, uint32_t prompt, v1::GenerateRequest request);
    Frontend::Call call();
    bool Write(const v1::GenerateResponse& message, bool last) override;
    void Finish(const absl::Status& status) override;
    void Abandon() override;

    Completion* const whole;
    const uint32_t prompt;
    const v1::GenerateRequest request;
    const std::shared_ptr<Generation> generation;
    bool due = false;  // the generation waits for OnWritten
  };

  // HTTP/1.0 has no chunks: a stream ends with its connection.
  bool chunked() const { return session_->request_.version() >= 11; }
  bool keep_alive() const { return chunked() && session_->request_.keep_alive(); }
  // Nothing that comes is of use any more: all is told, or nobody listens.
  bool ended() const { return over_ || last_; }

  void OnReadable(boost::beast::error_code error);
  void OnMessage(Part& part, const v1::GenerateResponse& message, bool last);
  // A prompt's end by an error, and so that of all.
  void OnEnd(const Part& part, const absl::Status& status);
  void SendHeader();
  void Flush();
  void OnFlushed(boost::beast::error_code error);
  void SendLastChunk();
  // A comment after some silence, so that proxies and clients keep the connection.
  void Beat();
  // One body, whole.
  void End(int status, std::string body, uint32_t retry_after_ms = 0);
  void Gone();
  void Leave(bool keep_alive);
  void CancelAllBut(const Part* part);

  const std::shared_ptr<HttpSession> session_;
  const bool stream_;
  OpenAiResponse response_;
  std::deque<Part> parts_;  // they stay where they are
  size_t started_ = 0;      // parts that the engine has taken
  size_t open_;             // parts that have not ended
  boost::asio::steady_timer heartbeat_;
  std::optional<boost::beast::http::response<boost::beast::http::empty_body>> header_;
  std::optional<boost::beast::http::response_serializer<boost::beast::http::empty_body>>
      serializer_;
  std::string pending_, sent_;
  bool header_sent_ = false;
  bool writing_ = false;
  bool last_ = false;  // the stream's end is in `pending_` or sent
  bool over_ = false;  // nothing more is written
};

}  // namespace whalepod
