// One Generate call, whatever it came by: the bridge between the engine's thread and a transport's.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "coordinator/api/validate.h"
#include "coordinator/metrics/request_record.h"
#include "coordinator/sched/engine.h"
#include "coordinator/text/stop_strings.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// A transport's end of a call. Called with the generation's lock held, from any thread: must not
// call back into it, and not block. Nothing is called after Finish, or after a last Write.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;
  // One at a time. `last`: the call ends well with it. True: it is done with, and the next may come
  // at once. False: the next comes after Generation::OnWritten, and `message` stays until then; a
  // last one as long as the generation.
  virtual bool Write(const v1::GenerateResponse& message, bool last) = 0;
  // The call ends with an error.
  virtual void Finish(const absl::Status& status) = 0;
  // The client takes nothing: break the call off. Generation::Cancel is expected to follow.
  virtual void Abandon() = 0;
};

// Parses what the engine samples, ends it at stop strings, and hands on what is due. The engine
// never waits for a client: while a write is under way, tokens gather in the next message. A writer
// that is always done at once gets each token in a message of its own, with the text it adds. Lives
// until the transport and the engine have both let it go.
class Generation final : public std::enable_shared_from_this<Generation> {
 public:
  // A client that reads more slowly is cancelled.
  struct Limits {
    // It has taken nothing for so long,
    Duration stall = std::chrono::seconds(30);
    // or so much of a choice waits for it: tokens, and the best ids that come with them. About two
    // megabytes, and clients take messages of four.
    uint32_t unread = 1 << 17;
  };

  // A call that waits for Begin or Refuse, one of which must follow. `writer` outlives its last
  // call (see there). `record` measures the call.
  Generation(ResponseWriter* writer, const Clock* clock, RequestRecord record, const Limits& limits)
      : writer_(writer), clock_(clock), limits_(limits), record_(std::move(record)) {}
  Generation(ResponseWriter* writer, const Clock* clock, RequestRecord record)
      : Generation(writer, clock, std::move(record), Limits()) {}

  // Submits what was asked for, all choices or none; `engine` outlives the call.
  void Begin(Engine* engine, CheckedGenerate checked, std::string request_id,
             const ServedModel& model);
  // Ends the call with `status` and nothing else. `request_id`: the client's, if it gave one.
  void Refuse(const absl::Status& status, const std::string& request_id = "");

  // From the transport: a write has ended; false if it failed, and the client is gone.
  void OnWritten(bool ok);
  // The client has left, or its deadline has passed. While Begin or Refuse is awaited the call ends
  // with it, since the request is in use until then.
  void Cancel();

 private:
  class Sink;  // the engine's end of one choice

  // One of the n answers.
  struct Choice {
    std::optional<ReasoningParser> parser;  // of a model with a tokenizer
    std::optional<StopStrings> stops;       // likewise
    uint64_t sequence = 0;                  // 0: not with the engine
    uint32_t completion_tokens = 0;
    v1::GenerateResponse tokens, finished;  // to be written
    uint32_t unread = 0;                    // tokens in `tokens`, and the best ids with them
    bool ended = false;                     // `finished` is made
  };

  // From the engine's thread.
  void TakePrompt(absl::Span<const v1::PromptLogprob> tokens);
  void TakeScheduled(uint32_t choice, uint32_t cached_tokens);
  void TakeToken(uint32_t choice, const v1::SampledToken& token, v1::FinishReason end);
  void TakeError(const absl::Status& status);

  void SubmitLocked(const SchedulerRequest& request, uint32_t n);
  // What an earlier deployment sampled of the only choice: it comes first, a token a message. True
  // if a stop string has ended it.
  bool TakeHistoryLocked(const std::vector<v1::GeneratedToken>& history);
  // The place of one more token of the prompt, its id and bytes filled in.
  v1::GeneratedToken* AddPromptTokenLocked(uint32_t id);
  void FillPieceLocked(v1::GeneratedToken* token) const;
  // A token of the choice, of the ranks or of history; true if a stop string has ended it.
  template <typename Token>
  bool AddTokenLocked(Choice& choice, const Token& token);
  // Parses a token, looks for stop strings; true if one has ended the choice.
  bool ParseLocked(Choice& choice, uint32_t token);
  // Moves what the parser let out and no stop string ends into the choice's next message; true if
  // one has ended it.
  bool TakeSpansLocked(Choice& choice, bool last);
  // The text that was held back, and the end.
  void EndByTokenLocked(Choice& choice, v1::FinishReason reason);
  void EndLocked(Choice& choice, v1::FinishReason reason);
  uint32_t IndexOf(const Choice& choice) const {
    return static_cast<uint32_t>(&choice - choices_.data());
  }
  bool OverLocked() const { return finished_ || !failed_.ok(); }
  // Takes the next message that is due; false if there is none.
  bool TakeDueLocked(v1::GenerateResponse* message);
  bool AnyDueLocked() const;
  void WriteNextLocked();
  void FinishLocked(const absl::Status& status);
  void CancelSequences();

  ResponseWriter* const writer_;
  const Clock* const clock_;
  const Limits limits_;
  std::string request_id_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // null: none
  uint32_t min_tokens_ = 0;                     // stop strings are looked for after them

  std::mutex mu_;
  RequestRecord record_;
  Engine* engine_ = nullptr;
  bool waiting_ = true;          // for Begin or Refuse
  bool cancelled_ = false;       // while waiting
  std::vector<Choice> choices_;  // of fixed size from Begin on
  std::vector<TextSpan> spans_;  // kept for their memory
  v1::GenerateResponse started_, writing_;
  std::deque<v1::GenerateResponse> first_;  // the prompt, history: before what is sampled here
  bool write_in_flight_ = false;
  TimePoint write_since_{};
  absl::Status failed_;    // how the call ends once all that is due is written
  bool finished_ = false;  // the writer was told the end
  uint32_t prompt_tokens_ = 0;
};

}  // namespace whalepod
