// What OpenAI's streams say, as far as a load asks: pure, bytes in, records out.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "coordinator/cli/bench/statistics.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// The path and the body of a streamed request: messages as a chat, text and token ids as a
// completion. `model` is the name to ask for.
struct StreamedCall {
  std::string path;  // after the base URL
  std::string body;
};
StreamedCall MakeStreamedCall(const v1::GenerateRequest& request, const std::string& model);

// One stream of server-sent events. Lines end with LF or CRLF, and may come in any pieces; comments
// and fields other than data are passed over.
class OpenAiStream {
 public:
  explicit OpenAiStream(LoadRecord* record) : record_(record) {}

  // Adds to the record what came at `now`: a chunk for each event with choices, as vLLM counts, the
  // usage, an error. What is not JSON fails the request by name.
  void Feed(absl::string_view bytes, double now);
  // [DONE] came, or an error: nothing more is expected.
  bool done() const { return done_; }
  // The stream is over: without usage, output tokens are the chunks; one that ended before its time
  // or without a token failed.
  void End();

 private:
  void OnLine(absl::string_view line, double now);
  void OnEvent(double now);
  void Fail(const std::string& name, const std::string& message);

  LoadRecord* const record_;
  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool done_ = false;
};

}  // namespace whalepod
