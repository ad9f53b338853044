#include "coordinator/metrics/request_record.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "coordinator/usage/sums.h"

namespace whalepod {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

int64_t Micros(Duration duration) {
  return std::chrono::duration_cast<std::chrono::microseconds>(duration).count();
}

}  // namespace

void RequestRecord::OnSubmitted(uint32_t choices, uint32_t prompt_tokens, uint32_t max_tokens) {
  submitted_ = true;
  choices_.resize(choices);
  prompt_tokens_ = prompt_tokens;
  metrics_->params_n_.Observe(choices);
  metrics_->params_max_tokens_.Observe(max_tokens);
}

void RequestRecord::OnHistory() {
  choices_.resize(1);
  ++choices_.front().tokens;
  ++choices_.front().history;
}

void RequestRecord::OnScheduled(uint32_t index, uint32_t cached_tokens, TimePoint now) {
  if (index >= choices_.size() || choices_[index].scheduled.has_value()) return;
  choices_[index].scheduled = now;
  choices_[index].cached_tokens = std::min(cached_tokens, prompt_tokens_);
  metrics_->queue_time_.Observe(Seconds(now - arrival_));
}

void RequestRecord::OnToken(uint32_t index, TimePoint now) {
  Choice& choice = choices_[index];
  metrics_->generation_tokens_.Add();
  ++choice.tokens;
  if (choice.first_token) {
    metrics_->inter_token_.Observe(Seconds(now - choice.last_token));
  } else {
    choice.first_token = now;
    metrics_->prompt_tokens_.Add(prompt_tokens_);
    metrics_->first_token_.Observe(Seconds(now - arrival_));
    if (choice.scheduled) metrics_->prefill_time_.Observe(Seconds(now - *choice.scheduled));
  }
  choice.last_token = now;
}

void RequestRecord::OnChoiceEnd(uint32_t index, v1::FinishReason reason, TimePoint now) {
  Choice& choice = choices_[index];
  choice.ended = true;
  using Ending = ServingMetrics::Ending;
  const bool length = reason == v1::FINISH_REASON_LENGTH;
  metrics_->Ended(length ? Ending::kLength : Ending::kStop).Add();
  metrics_->end_to_end_.Observe(Seconds(now - arrival_));
  metrics_->request_prompt_tokens_.Observe(prompt_tokens_);
  metrics_->request_generation_tokens_.Observe(choice.tokens);
  if (!choice.first_token) return;
  const double decode = Seconds(choice.last_token - *choice.first_token);
  metrics_->decode_time_.Observe(decode);
  const uint32_t gaps = choice.tokens - choice.history - 1;
  if (gaps > 0) metrics_->per_token_.Observe(decode / gaps);
  if (choice.scheduled) {
    metrics_->inference_time_.Observe(Seconds(choice.last_token - *choice.scheduled));
  }
}

Outcome RequestRecord::OutcomeOf(const absl::Status& status) const {
  if (status.ok()) return Outcome::kFinished;
  if (stalled_) return Outcome::kStalled;
  if (absl::IsCancelled(status)) return Outcome::kCancelled;
  if (!submitted_) return Outcome::kRejected;
  return absl::IsDeadlineExceeded(status) ? Outcome::kExpired : Outcome::kFailed;
}

void RequestRecord::OnEnd(const absl::Status& status, absl::string_view reason, TimePoint now) {
  if (ended_) return;
  ended_ = true;
  const Outcome outcome = OutcomeOf(status);
  metrics_->Ended(transport_, outcome).Add();
  if (outcome == Outcome::kRejected) {
    metrics_->rejected_
        .With({reason.empty() ? absl::StatusCodeToString(status.code()) : std::string(reason)})
        .Add();
  }
  using Ending = ServingMetrics::Ending;
  const Ending open = outcome == Outcome::kFailed ? Ending::kError : Ending::kAbort;
  for (const Choice& choice : choices_) {
    if (submitted_ && !choice.ended) metrics_->Ended(open).Add();
  }
  if (!resumable_ || !absl::IsUnavailable(status)) Account(outcome);
  Log(outcome, status, now);
}

v1::Usage RequestRecord::UsageOf(uint32_t index) const {
  const Choice& choice = choices_[index];
  v1::Usage usage;
  usage.set_completion_tokens(choice.tokens);
  usage.set_reasoning_tokens(choice.reasoning_tokens);
  v1::Usage paid = usage;
  usage.set_prompt_tokens(prompt_tokens_);
  usage.set_cached_tokens(choice.cached_tokens);
  if (index == 0) paid = usage;
  usage.set_cost_dollars(usage_->prices().Of(paid));
  return usage;
}

void RequestRecord::Account(Outcome outcome) const {
  const bool job = transport_ == Transport::kJob;
  if (!submitted_ || (job && outcome != Outcome::kFinished)) return;
  v1::Usage usage;
  for (uint32_t i = 0; i < choices_.size(); ++i) AddChoice(UsageOf(i), i, &usage);
  if (usage.completion_tokens() == 0) return;
  usage_->Add(caller_, job ? v1::USAGE_SOURCE_JOB : v1::USAGE_SOURCE_INTERACTIVE, usage);
}

void RequestRecord::Log(Outcome outcome, const absl::Status& status, TimePoint now) const {
  // A lost deployment ends all its requests, and says so itself.
  const bool loud = outcome == Outcome::kFailed && !absl::IsUnavailable(status);
  const auto level = loud ? spdlog::level::warn : spdlog::level::debug;
  if (!spdlog::should_log(level)) return;
  int64_t tokens = 0;
  std::optional<TimePoint> first;
  for (const Choice& choice : choices_) {
    tokens += choice.tokens;
    if (choice.first_token)
      first = std::min(first.value_or(*choice.first_token), *choice.first_token);
  }
  const char* const transport = kTransportNames[static_cast<size_t>(transport_)];
  const char* const ended = kOutcomeNames[static_cast<size_t>(outcome)];
  const double total_ms = Micros(now - arrival_) / 1e3;
  std::vector<LogField> fields = {
      {"request_id", absl::string_view(id_)}, {"transport", absl::string_view(transport)},
      {"outcome", absl::string_view(ended)},  {"prompt_tokens", int64_t{prompt_tokens_}},
      {"completion_tokens", tokens},          {"total_ms", total_ms}};
  std::string text =
      fmt::format("request {}: {} after {:.1f} ms, {} prompt tokens, {} generated",
                  id_.empty() ? "without id" : id_, ended, total_ms, prompt_tokens_, tokens);
  if (first.has_value()) {
    const double first_ms = Micros(*first - arrival_) / 1e3;
    fields.push_back({"ttft_ms", first_ms});
    text += fmt::format(", the first after {:.1f} ms", first_ms);
  }
  if (!status.ok()) text += fmt::format(": {}", std::string(status.message()));
  const LogScope scope(std::move(fields));
  spdlog::log(level, "{}", text);
}

}  // namespace whalepod
