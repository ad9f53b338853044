#include "coordinator/api/generate_stream.h"

#include <utility>

#include "base/log.h"
#include "coordinator/api/errors.h"

namespace whalepod {
namespace {

// A client that takes nothing for this long has its generation cancelled.
constexpr std::chrono::seconds kWriteStall(30);
constexpr uint32_t kRetryMs = 1000;
const grpc::Status kCancelled(grpc::StatusCode::CANCELLED, "cancelled, or past its deadline");

}  // namespace

std::shared_ptr<GenerateStream> GenerateStream::Make(grpc::CallbackServerContext* context,
                                                     const Clock* clock) {
  auto stream = std::make_shared<GenerateStream>(context, clock);
  stream->self_ = stream;
  return stream;
}

void GenerateStream::Refuse(const absl::Status& status) {
  std::lock_guard lock(mu_);
  waiting_ = false;
  FinishLocked(ToGrpcStatus(status));
}

void GenerateStream::Begin(Engine* engine, CheckedGenerate checked, std::string request_id,
                           const ServedModel& model) {
  // Held over the engine's Submit, so that no token overtakes Started. The engine calls sinks
  // without its own lock, so the order mu_, engine is the only one.
  std::lock_guard lock(mu_);
  waiting_ = false;
  if (cancelled_) {
    FinishLocked(kCancelled);
    return;
  }
  engine_ = engine;
  request_id_ = std::move(request_id);
  tokenizer_ = model.text.tokenizer;
  if (tokenizer_ != nullptr) {
    parser_.emplace(tokenizer_, checked.reasoning, SpecialTokens::kSkip);
    stops_.emplace(std::move(checked.stop));
  }
  SubmitLocked(std::move(checked.request), model.name);
}

void GenerateStream::SubmitLocked(SchedulerRequest request, std::string model) {
  prompt_tokens_ = static_cast<uint32_t>(request.prompt.size());
  v1::GenerateResponse::Started* started = started_.mutable_started();
  started->set_request_id(request_id_);
  started->set_model(std::move(model));
  started->set_seed(request.sampling.seed());
  absl::StatusOr<uint64_t> sequence = engine_->Submit(std::move(request), shared_from_this());
  if (!sequence.ok()) {
    absl::Status status = sequence.status();
    if (absl::IsResourceExhausted(status)) {
      status = WithRetryDelay(std::move(status), "QUEUE_FULL", kRetryMs);
    }
    FinishLocked(ToGrpcStatus(status));
    return;
  }
  sequence_ = *sequence;
  spdlog::debug("request {}: sequence {}, {} prompt tokens", request_id_, sequence_,
                prompt_tokens_);
  started_due_ = true;
  WriteNextLocked();
}

void GenerateStream::OnToken(const v1::SampledToken& token) {
  if (!TakeToken(token)) return;
  // A stop string is complete: what comes after it is no longer wanted.
  CancelSequence();
}

// True if the answer has ended with this token.
bool GenerateStream::TakeToken(const v1::SampledToken& token) {
  std::lock_guard lock(mu_);
  if (finished_ || ended_) return false;
  bool stopped = false;
  v1::GeneratedToken* out = tokens_.mutable_tokens()->add_tokens();
  out->set_token_id(token.token_id());
  if (parser_.has_value()) {
    if (!tokenizer_->IsSpecial(token.token_id())) {
      const absl::string_view piece = tokenizer_->Bytes(token.token_id());
      out->set_piece(piece.data(), piece.size());
    }
    parser_->Add(token.token_id(), spans_);
    stopped = TakeSpansLocked(/*last=*/false);
  }
  if (token.has_logprob()) out->set_logprob(token.logprob());
  for (const v1::TopLogprob& top : token.top()) {
    v1::TokenLogprob* best = out->add_top();
    best->set_token_id(top.token_id());
    best->set_logprob(top.logprob());
  }
  ++completion_tokens_;
  if (write_in_flight_ && clock_->Now() - write_since_ > kWriteStall) {
    spdlog::warn("request {}: the client has read nothing for {} s, cancelled", request_id_,
                 kWriteStall.count());
    context_->TryCancel();
    return false;
  }
  if (stopped) {
    EndLocked(v1::FINISH_REASON_STOP);
    last_.mutable_finished()->set_stop(stops_->stopped_by());
  }
  WriteNextLocked();
  return stopped;
}

void GenerateStream::OnFinished(v1::FinishReason reason) {
  std::lock_guard lock(mu_);
  if (finished_ || ended_) return;
  if (parser_.has_value()) {
    parser_->Finish(spans_);
    if (TakeSpansLocked(/*last=*/true)) {
      reason = v1::FINISH_REASON_STOP;
      last_.mutable_finished()->set_stop(stops_->stopped_by());
    }
  }
  EndLocked(reason);
  WriteNextLocked();
}

void GenerateStream::EndLocked(v1::FinishReason reason) {
  ended_ = true;
  v1::GenerateResponse::Finished* finished = last_.mutable_finished();
  finished->set_reason(reason);
  finished->mutable_usage()->set_prompt_tokens(prompt_tokens_);
  finished->mutable_usage()->set_completion_tokens(completion_tokens_);
}

void GenerateStream::OnError(const absl::Status& status) {
  std::lock_guard lock(mu_);
  if (finished_ || ended_) return;
  ended_ = true;
  end_status_ = ToGrpcStatus(status);
  WriteNextLocked();
}

bool GenerateStream::TakeSpansLocked(bool last) {
  std::vector<TextSpan> shown;
  bool stopped = false;
  for (size_t i = 0; i < spans_.size() && !stopped; ++i) stopped = stops_->Add(spans_[i], shown);
  if (last && !stopped) stops_->Finish(shown);
  spans_.clear();
  for (TextSpan& span : shown) {
    v1::TextSpan* out = tokens_.mutable_tokens()->add_spans();
    out->set_kind(span.kind == SpanKind::kReasoning ? v1::SPAN_KIND_REASONING
                                                    : v1::SPAN_KIND_ANSWER);
    out->set_text(std::move(span.text));
  }
  return stopped;
}

void GenerateStream::WriteNextLocked() {
  if (finished_ || write_in_flight_) return;
  if (started_due_ || tokens_.has_tokens()) {
    writing_ = std::move(started_due_ ? started_ : tokens_);
    (started_due_ ? started_ : tokens_).Clear();
    started_due_ = false;
    write_in_flight_ = true;
    write_since_ = clock_->Now();
    StartWrite(&writing_);
  } else if (ended_) {
    if (end_status_.ok()) {
      finished_ = true;
      StartWriteAndFinish(&last_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      FinishLocked(end_status_);
    }
  }
}

void GenerateStream::FinishLocked(const grpc::Status& status) {
  if (finished_) return;
  finished_ = true;
  Finish(status);
}

void GenerateStream::OnWriteDone(bool ok) {
  {
    std::lock_guard lock(mu_);
    write_in_flight_ = false;
    if (ok) {
      WriteNextLocked();
      return;
    }
    FinishLocked(grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone"));
  }
  CancelSequence();
}

void GenerateStream::OnCancel() {
  {
    std::lock_guard lock(mu_);
    if (waiting_) {
      cancelled_ = true;
      return;
    }
    FinishLocked(kCancelled);
  }
  CancelSequence();
}

void GenerateStream::OnDone() {
  CancelSequence();
  const std::shared_ptr<GenerateStream> last = std::move(self_);
}

void GenerateStream::CancelSequence() {
  uint64_t sequence = 0;
  Engine* engine = nullptr;
  {
    std::lock_guard lock(mu_);
    std::swap(sequence, sequence_);
    engine = engine_;
  }
  if (sequence != 0) engine->Cancel(sequence);
}

}  // namespace whalepod
