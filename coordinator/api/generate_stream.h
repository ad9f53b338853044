// One Generate call: the bridge between the engine's thread and gRPC's.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/api/validate.h"
#include "coordinator/sched/engine.h"
#include "coordinator/text/stop_strings.h"
#include "whalepod/v1/inference.grpc.pb.h"

namespace whalepod {

// gRPC may run reactions at the same time and on any thread: all Start* and Finish calls are made
// under mu_. The engine never waits for a client: while a write is under way, tokens gather in the
// next message. Lives until gRPC is done with it and the engine has let it go.
class GenerateStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                             public RequestSink,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  // A call that waits for Begin or Refuse, one of which must follow: until then the request and the
  // context are there, also when the client cancels.
  static std::shared_ptr<GenerateStream> Make(grpc::CallbackServerContext* context,
                                              const Clock* clock);
  // Submits what was asked for; `engine` outlives the call.
  void Begin(Engine* engine, CheckedGenerate checked, std::string request_id,
             const ServedModel& model);
  // Ends the call with `status` and nothing else.
  void Refuse(const absl::Status& status);

  // Use the factory.
  GenerateStream(grpc::CallbackServerContext* context, const Clock* clock)
      : context_(context), clock_(clock) {}

  void OnToken(const v1::SampledToken& token) override;
  void OnFinished(v1::FinishReason reason) override;
  void OnError(const absl::Status& status) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  void SubmitLocked(SchedulerRequest request, std::string model);
  // Moves what the parser let out and no stop string ends into the next message; true if one has
  // ended it.
  bool TakeSpansLocked(bool last);
  bool TakeToken(const v1::SampledToken& token);
  void EndLocked(v1::FinishReason reason);
  void WriteNextLocked();
  void FinishLocked(const grpc::Status& status);
  void CancelSequence();

  grpc::CallbackServerContext* const context_;
  const Clock* const clock_;
  std::string request_id_;
  std::shared_ptr<const Tokenizer> tokenizer_;  // null: none

  std::mutex mu_;
  Engine* engine_ = nullptr;
  bool waiting_ = true;                    // for Begin or Refuse
  bool cancelled_ = false;                 // while waiting
  std::optional<ReasoningParser> parser_;  // of a model with a tokenizer
  std::optional<StopStrings> stops_;       // likewise
  std::vector<TextSpan> spans_;            // kept for their memory
  uint64_t sequence_ = 0;                  // 0: not with the engine
  v1::GenerateResponse started_, writing_, tokens_, last_;
  bool started_due_ = false;
  bool write_in_flight_ = false;
  TimePoint write_since_{};
  bool ended_ = false;       // the engine has said its last
  grpc::Status end_status_;  // how it ended; OK: with last_
  bool finished_ = false;    // Finish was called
  uint32_t prompt_tokens_ = 0;
  uint32_t completion_tokens_ = 0;
  std::shared_ptr<GenerateStream> self_;
};

}  // namespace whalepod
