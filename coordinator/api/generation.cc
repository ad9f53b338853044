#include "coordinator/api/generation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/limits.h"

namespace whalepod {
namespace {

// Of one message: with 20 best ids each a quarter of a megabyte, and clients take four.
constexpr int kMostPromptTokens = 1024;

absl::Status Cancelled() { return absl::CancelledError("cancelled, or past its deadline"); }

// Logprob and best ids of a token the ranks tell of.
template <typename From>
void FillLogprobs(const From& from, v1::GeneratedToken* to) {
  to->set_logprob(from.logprob());
  for (const auto& top : from.top()) {
    v1::TokenLogprob* best = to->add_top();
    best->set_token_id(top.token_id());
    best->set_logprob(top.logprob());
  }
}

}  // namespace

// Keeps the call as long as the engine may speak.
class Generation::Sink final : public RequestSink {
 public:
  Sink(std::shared_ptr<Generation> stream, uint32_t choice)
      : stream_(std::move(stream)), choice_(choice) {}
  void OnPrompt(absl::Span<const v1::PromptLogprob> tokens) override {
    stream_->TakePrompt(tokens);
  }
  void OnScheduled(uint32_t cached_tokens) override {
    stream_->TakeScheduled(choice_, cached_tokens);
  }
  void OnToken(const v1::SampledToken& token, v1::FinishReason end) override {
    stream_->TakeToken(choice_, token, end);
  }
  void OnError(const absl::Status& status) override { stream_->TakeError(status); }

 private:
  const std::shared_ptr<Generation> stream_;
  const uint32_t choice_;
};

void Generation::Refuse(const absl::Status& status, const std::string& request_id) {
  std::lock_guard lock(mu_);
  waiting_ = false;
  // It may be what is wrong.
  record_.SetId(absl::Utf8SafeCEscape(request_id.substr(0, kMostRequestId)));
  FinishLocked(status);
}

void Generation::Begin(Engine* engine, CheckedGenerate checked, std::string request_id,
                       const ServedModel& model) {
  {
    // Held over the engine's Submit, so that no token overtakes Started. The engine calls sinks
    // without its own lock, so the order mu_, engine is the only one.
    std::lock_guard lock(mu_);
    waiting_ = false;
    record_.SetId(request_id);
    record_.SetCaller(checked.request.tenant);
    if (cancelled_) {
      FinishLocked(Cancelled());
      return;
    }
    engine_ = engine;
    request_id_ = std::move(request_id);
    tokenizer_ = model.text.tokenizer;
    min_tokens_ = checked.request.sampling.min_tokens();
    choices_.resize(checked.n);
    for (Choice& choice : choices_) {
      if (tokenizer_ == nullptr) continue;
      choice.parser.emplace(tokenizer_, checked.reasoning, SpecialTokens::kSkip);
      choice.stops.emplace(checked.stop);
    }
    v1::GenerateResponse::Started* started = started_.mutable_started();
    started->set_request_id(request_id_);
    started->set_model(model.name);
    started->set_seed(checked.request.sampling.seed());
    started->set_fingerprint(FingerprintOf(model, checked.request));
    started->set_reasoning_open(checked.reasoning == ReasoningStart::kOpen);
    for (const v1::GeneratedToken& token : checked.history) {
      checked.request.generated.push_back(token.token_id());
    }
    // Before the engine has it, whose thread would wait meanwhile.
    if (TakeHistoryLocked(checked.history)) {
      EndLocked(choices_.front(), v1::FINISH_REASON_STOP);
      WriteNextLocked();
      return;
    }
    SubmitLocked(checked.request, checked.n);
    if (!finished_) return;
  }
  CancelSequences();
}

void Generation::SubmitLocked(const SchedulerRequest& request, uint32_t n) {
  prompt_tokens_ = static_cast<uint32_t>(request.prompt.size());
  for (uint32_t i = 0; i < n; ++i) {
    SchedulerRequest one = request;
    one.sampling.set_choice(i);
    // The prompt is the same for all.
    if (i > 0) one.sampling.clear_prompt_logprobs();
    absl::StatusOr<uint64_t> sequence =
        engine_->Submit(std::move(one), std::make_shared<Sink>(shared_from_this(), i));
    if (!sequence.ok()) {
      absl::Status status = sequence.status();
      if (absl::IsResourceExhausted(status)) {
        status = WithRetryDelay(std::move(status), "QUEUE_FULL", kRetryMs);
      }
      FinishLocked(status);
      return;
    }
    choices_[i].sequence = *sequence;
  }
  record_.OnSubmitted(n, prompt_tokens_, request.sampling.max_tokens());
  const LogScope scope(LogField{"request_id", absl::string_view(request_id_)});
  spdlog::debug("request {}: sequence {} and {} more, {} prompt tokens", request_id_,
                choices_[0].sequence, n - 1, prompt_tokens_);
  if (request.sampling.has_prompt_logprobs()) {
    AddPromptTokenLocked(request.prompt.front());
  }
  WriteNextLocked();
}

v1::GeneratedToken* Generation::AddPromptTokenLocked(uint32_t id) {
  if (first_.empty() || first_.back().prompt().tokens_size() >= kMostPromptTokens) {
    first_.emplace_back();
  }
  v1::GeneratedToken* token = first_.back().mutable_prompt()->add_tokens();
  token->set_token_id(id);
  FillPieceLocked(token);
  return token;
}

void Generation::FillPieceLocked(v1::GeneratedToken* token) const {
  if (tokenizer_ == nullptr || tokenizer_->IsSpecial(token->token_id())) return;
  const absl::string_view piece = tokenizer_->Bytes(token->token_id());
  token->set_piece(piece.data(), piece.size());
}

void Generation::TakePrompt(absl::Span<const v1::PromptLogprob> tokens) {
  {
    std::lock_guard lock(mu_);
    if (OverLocked()) return;
    for (const v1::PromptLogprob& token : tokens) {
      if (!token.error().empty()) {
        failed_ = absl::DataLossError(absl::StrCat("prompt token ", token.position(),
                                                   " could not be scored: ", token.error()));
        break;
      }
      FillLogprobs(token, AddPromptTokenLocked(token.token_id()));
    }
    WriteNextLocked();
    if (failed_.ok()) return;
  }
  CancelSequences();
}

void Generation::TakeScheduled(uint32_t index, uint32_t cached_tokens) {
  std::lock_guard lock(mu_);
  if (OverLocked()) return;
  record_.OnScheduled(index, cached_tokens, clock_->Now());
}

bool Generation::TakeHistoryLocked(const std::vector<v1::GeneratedToken>& history) {
  for (const v1::GeneratedToken& token : history) {
    Choice& choice = choices_.front();
    record_.OnHistory();
    const bool stopped = AddTokenLocked(choice, token);
    choice.unread = 0;
    first_.push_back(std::exchange(choice.tokens, v1::GenerateResponse()));
    if (stopped) return true;
  }
  return false;
}

template <typename Token>
bool Generation::AddTokenLocked(Choice& choice, const Token& token) {
  v1::GeneratedToken* out = choice.tokens.mutable_tokens()->add_tokens();
  choice.tokens.mutable_tokens()->set_choice(IndexOf(choice));
  out->set_token_id(token.token_id());
  FillPieceLocked(out);
  if (token.has_logprob()) FillLogprobs(token, out);
  ++choice.completion_tokens;
  choice.unread += 1 + static_cast<uint32_t>(token.top_size());
  return ParseLocked(choice, token.token_id());
}

void Generation::TakeToken(uint32_t index, const v1::SampledToken& token, v1::FinishReason end) {
  uint64_t unwanted = 0;
  {
    std::lock_guard lock(mu_);
    Choice& choice = choices_[index];
    if (OverLocked() || choice.ended) return;
    const TimePoint now = clock_->Now();
    record_.OnToken(index, now);
    const bool stopped = AddTokenLocked(choice, token);
    if (end != v1::FINISH_REASON_UNSPECIFIED) choice.sequence = 0;
    if (write_in_flight_ &&
        (choice.unread > limits_.unread || now - write_since_ > limits_.stall)) {
      const LogScope scope(LogField{"request_id", absl::string_view(request_id_)});
      spdlog::warn("request {}: the client reads too slowly, cancelled with {} tokens unread",
                   request_id_, choice.tokens.tokens().tokens_size());
      record_.OnStalled();
      writer_->Abandon();
      return;
    }
    if (stopped) {
      EndLocked(choice, v1::FINISH_REASON_STOP);
      // What comes after a stop string is no longer wanted.
      std::swap(unwanted, choice.sequence);
    } else if (end != v1::FINISH_REASON_UNSPECIFIED) {
      EndByTokenLocked(choice, end);
    }
    WriteNextLocked();
  }
  if (unwanted != 0) engine_->Cancel(unwanted);
}

bool Generation::ParseLocked(Choice& choice, uint32_t token) {
  if (!choice.parser.has_value()) return false;
  const bool reasoned = choice.parser->in_reasoning();
  choice.parser->Add(token, spans_);
  // Tags are none: the first one is read before, the last one after the state changes.
  if (reasoned && choice.parser->in_reasoning()) record_.OnReasoning(IndexOf(choice));
  return TakeSpansLocked(choice, /*last=*/false);
}

void Generation::EndByTokenLocked(Choice& choice, v1::FinishReason reason) {
  if (choice.parser.has_value()) {
    choice.parser->Finish(spans_);
    if (TakeSpansLocked(choice, /*last=*/true)) reason = v1::FINISH_REASON_STOP;
  }
  EndLocked(choice, reason);
}

void Generation::EndLocked(Choice& choice, v1::FinishReason reason) {
  const uint32_t index = IndexOf(choice);
  choice.ended = true;
  record_.OnChoiceEnd(index, reason, clock_->Now());
  v1::GenerateResponse::Finished* finished = choice.finished.mutable_finished();
  finished->set_reason(reason);
  finished->set_choice(index);
  *finished->mutable_usage() = record_.UsageOf(index);
  if (choice.stops.has_value()) finished->set_stop(choice.stops->stopped_by());
}

void Generation::TakeError(const absl::Status& status) {
  {
    std::lock_guard lock(mu_);
    if (OverLocked()) return;
    failed_ = status;
    WriteNextLocked();
  }
  CancelSequences();
}

bool Generation::TakeSpansLocked(Choice& choice, bool last) {
  std::vector<TextSpan> shown;
  bool stopped = false;
  if (choice.completion_tokens <= min_tokens_) {
    shown = std::move(spans_);
  } else {
    for (size_t i = 0; i < spans_.size() && !stopped; ++i) {
      stopped = choice.stops->Add(spans_[i], shown);
    }
  }
  if (last && !stopped) choice.stops->Finish(shown);
  spans_.clear();
  for (TextSpan& span : shown) {
    v1::TextSpan* out = choice.tokens.mutable_tokens()->add_spans();
    choice.tokens.mutable_tokens()->set_choice(IndexOf(choice));
    out->set_kind(span.kind == SpanKind::kReasoning ? v1::SPAN_KIND_REASONING
                                                    : v1::SPAN_KIND_ANSWER);
    out->set_text(std::move(span.text));
  }
  return stopped;
}

bool Generation::AnyDueLocked() const {
  return started_.has_started() || !first_.empty() ||
         std::any_of(choices_.begin(), choices_.end(), [](const Choice& choice) {
           return choice.tokens.has_tokens() || choice.finished.has_finished();
         });
}

bool Generation::TakeDueLocked(v1::GenerateResponse* message) {
  const auto take = [message](v1::GenerateResponse& due) {
    *message = std::move(due);
    due.Clear();
    return true;
  };
  if (started_.has_started()) return take(started_);
  if (!first_.empty()) {
    take(first_.front());
    first_.pop_front();
    return true;
  }
  for (Choice& choice : choices_) {
    if (choice.tokens.has_tokens()) {
      choice.unread = 0;
      return take(choice.tokens);
    }
    if (choice.finished.has_finished()) return take(choice.finished);
  }
  return false;
}

void Generation::WriteNextLocked() {
  while (!finished_ && !write_in_flight_) {
    if (!TakeDueLocked(&writing_)) {
      if (!failed_.ok()) FinishLocked(failed_);
      return;
    }
    const bool last = failed_.ok() && !AnyDueLocked() &&
                      std::all_of(choices_.begin(), choices_.end(),
                                  [](const Choice& choice) { return choice.ended; });
    finished_ = last;
    write_since_ = clock_->Now();
    if (last) record_.OnEnd(absl::OkStatus(), "", write_since_);
    write_in_flight_ = !writer_->Write(writing_, last);
  }
}

void Generation::FinishLocked(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  const std::optional<v1::ErrorDetail> detail = DetailOf(status);
  record_.OnEnd(status, detail.has_value() ? detail->reason() : "", clock_->Now());
  writer_->Finish(status);
}

void Generation::OnWritten(bool ok) {
  {
    std::lock_guard lock(mu_);
    write_in_flight_ = false;
    if (ok) {
      WriteNextLocked();
      return;
    }
    FinishLocked(absl::CancelledError("the client is gone"));
  }
  CancelSequences();
}

void Generation::Cancel() {
  {
    std::lock_guard lock(mu_);
    if (waiting_) {
      cancelled_ = true;
      return;
    }
    FinishLocked(Cancelled());
  }
  CancelSequences();
}

void Generation::CancelSequences() {
  std::vector<uint64_t> sequences;
  Engine* engine = nullptr;
  {
    std::lock_guard lock(mu_);
    for (Choice& choice : choices_) {
      if (choice.sequence != 0) sequences.push_back(std::exchange(choice.sequence, 0));
    }
    engine = engine_;
  }
  for (const uint64_t sequence : sequences) engine->Cancel(sequence);
}

}  // namespace whalepod
