// One Generate call: the bridge between the engine's thread and gRPC's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "base/clock.h"
#include "coordinator/api/validate.h"
#include "coordinator/sched/engine.h"
#include "coordinator/text/stop_strings.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {

// gRPC may run reactions at the same time and on any thread: all Start* and Finish calls are made
// under mu_. The engine never waits for a client: while a write is under way, tokens gather in the
// next message. Lives until gRPC is done with it and the engine has let its sinks go.
class GenerateStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  // A call that waits for Begin or Refuse, one of which must follow: until then the request and the
  // context are there, also when the client cancels.
  static std::shared_ptr<GenerateStream> Make(grpc::CallbackServerContext* context,
                                              const Clock* clock);
  // Submits what was asked for, all choices or none; `engine` outlives the call.
  void Begin(Engine* engine, CheckedGenerate checked, std::string request_id,
             const ServedModel& model);
  // Ends the call with `status` and nothing else.
  void Refuse(const absl::Status& status);

  // Use the factory.
  GenerateStream(grpc::CallbackServerContext* context, const Clock* clock)
      : context_(context), clock_(clock) {}

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  class Sink;  // the engine's end of one choice

  // One of the n answers.
  struct Choice {
    std::optional<ReasoningParser> parser;  // of a model with a tokenizer
    std::optional<StopStrings> stops;       // likewise
    uint64_t sequence = 0;                  // 0: not with the engine
    uint32_t completion_tokens = 0;
    v1::GenerateResponse tokens, finished;  // to be written
    bool ended = false;                     // `finished` is made
  };

  // From the engine's thread.
  void TakePrompt(absl::Span<const v1::PromptLogprob> tokens);
  void TakeToken(uint32_t choice, const v1::SampledToken& token);
  void TakeEnd(uint32_t choice, v1::FinishReason reason);
  void TakeError(const absl::Status& status);

  void SubmitLocked(const SchedulerRequest& request, uint32_t n);
  // The place of one more token of the prompt, its id and bytes filled in.
  v1::GeneratedToken* AddPromptTokenLocked(uint32_t id);
  void FillPieceLocked(v1::GeneratedToken* token) const;
  // Parses a token, looks for stop strings; true if one has ended the choice.
  bool ParseLocked(Choice& choice, uint32_t token);
  // Moves what the parser let out and no stop string ends into the choice's next message; true if
  // one has ended it.
  bool TakeSpansLocked(Choice& choice, bool last);
  void EndLocked(Choice& choice, v1::FinishReason reason);
  bool OverLocked() const { return finished_ || failed_; }
  // Takes the next message that is due; false if there is none.
  bool TakeDueLocked(v1::GenerateResponse* message);
  bool AnyDueLocked() const;
  void WriteNextLocked();
  void FinishLocked(const grpc::Status& status);
  void CancelSequences();

  grpc::CallbackServerContext* const context_;
  const Clock* const clock_;
  std::string request_id_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // null: none
  uint32_t min_tokens_ = 0;                     // stop strings are looked for after them

  std::mutex mu_;
  Engine* engine_ = nullptr;
  bool waiting_ = true;          // for Begin or Refuse
  bool cancelled_ = false;       // while waiting
  std::vector<Choice> choices_;  // of fixed size from Begin on
  std::vector<TextSpan> spans_;  // kept for their memory
  v1::GenerateResponse started_, writing_;
  std::deque<v1::GenerateResponse> prompt_;  // none is empty
  bool write_in_flight_ = false;
  TimePoint write_since_{};
  bool failed_ = false;  // with end_status_, after what is due
  grpc::Status end_status_;
  bool finished_ = false;  // Finish was called
  uint32_t prompt_tokens_ = 0;
  std::shared_ptr<GenerateStream> self_;
};

}  // namespace whalepod
