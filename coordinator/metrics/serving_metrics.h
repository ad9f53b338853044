// Every metric of a deployment, declared once: docs/metrics.md explains them. Named as vLLM's where
// the thing is the same, else `whalepod:`. All have the label model_name.
//
// What happens is recorded when it happens (RequestRecord, RecordStep, responses); what merely is,
// or is counted elsewhere, is set before each scrape (Set*).
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "base/clock.h"
#include "coordinator/metrics/rate_meter.h"
#include "coordinator/metrics/registry.h"
#include "coordinator/sched/engine.h"
#include "coordinator/sched/scheduler.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// By which a request came, and how it ended.
enum class Transport { kGrpc, kHttp, kJob };
enum class Outcome {
  kFinished,
  kRejected,
  kCancelled,  // the client left
  kStalled,    // it read nothing
  kExpired,    // a deadline of the request
  kFailed,
};
// As labels, in order.
inline constexpr std::array kTransportNames = {"grpc", "http", "job"};
inline constexpr std::array kOutcomeNames = {"finished", "rejected", "cancelled",
                                             "stalled",  "expired",  "failed"};

// Thread-safe where nothing else is said.
class ServingMetrics {
 public:
  explicit ServingMetrics(const std::string& model_name);
  ServingMetrics(const ServingMetrics&) = delete;
  ServingMetrics& operator=(const ServingMetrics&) = delete;

  // The one place where the scheduler's totals and state become metrics.
  void SetScheduler(const SchedulerStats& stats);
  // State, epoch, ranks.
  void SetDeployment(const v1::GetStatusResponse& status);
  // What all ranks answered to a step, at `now`. From one thread at a time.
  void RecordStep(const StepOutcome& outcome, TimePoint now);
  // `route`: one of a fixed set, never what a client sent.
  void RecordHttpResponse(const std::string& route, int code);

  // Begins the time that Rates are about; RecordStep goes on with it.
  void NoteTotals(TimePoint now);
  // Tokens and requests a second, lately.
  RateMeter::Rates Rates(TimePoint now) const { return rates_.Read(now); }

  std::vector<MetricInfo> Declared() const { return registry_.Declared(); }
  std::string Text() const { return registry_.Text(); }

 private:
  static std::vector<double> LatencyBounds();
  static std::vector<double> TokenBounds();
  static std::vector<double> StepBounds();

  // How a sequence ended: vLLM's finished_reason.
  enum class Ending { kStop, kLength, kAbort, kError };
  Counter& Ended(Ending ending) { return *endings_[static_cast<size_t>(ending)]; }
  Counter& Ended(Transport transport, Outcome outcome) {
    return *outcomes_[static_cast<size_t>(transport)][static_cast<size_t>(outcome)];
  }

  Registry registry_;

  // --- Set before a scrape.
  Gauge& running_ = registry_.AddGauge("vllm:num_requests_running", "Sequences that run.");
  Gauge& waiting_ = registry_.AddGauge("vllm:num_requests_waiting", "Sequences that wait to run.");
  Gauge& kv_usage_ = registry_.AddGauge("vllm:kv_cache_usage_perc",
                                        "KV blocks owned by sequences, of all; 1 is 100 percent.");
  Counter& preemptions_ =
      registry_.AddCounter("vllm:num_preemptions_total",
                           "Sequences that lost their KV blocks to others and wait again.");
  Counter& prefix_queries_ = registry_.AddCounter("vllm:prefix_cache_queries_total",
                                                  "Prompt tokens looked for in the prefix cache.");
  Counter& prefix_hits_ = registry_.AddCounter("vllm:prefix_cache_hits_total",
                                               "Prompt tokens found in the prefix cache.");
  Family<Gauge>& waiting_by_priority_ = registry_.AddGauges(
      "whalepod:requests_waiting", {"priority"}, "Sequences that wait to run, by priority.");
  Gauge& kv_blocks_ = registry_.AddGauge("whalepod:kv_blocks", "KV blocks of all DP groups.");
  Gauge& kv_blocks_used_ =
      registry_.AddGauge("whalepod:kv_blocks_used", "KV blocks owned by sequences.");
  Gauge& kv_blocks_cached_ = registry_.AddGauge(
      "whalepod:kv_blocks_cached", "KV blocks without an owner that the prefix cache can find.");
  Gauge& waiting_tokens_ =
      registry_.AddGauge("whalepod:waiting_tokens", "Tokens of the sequences that wait to run.");
  Counter& prefill_tokens_ = registry_.AddCounter(
      "whalepod:prefill_tokens_total", "Tokens computed in prefill chunks, recomputed ones too.");
  Counter& decode_tokens_ =
      registry_.AddCounter("whalepod:decode_tokens_total", "Tokens computed in decode steps.");
  Counter& overrun_tokens_ = registry_.AddCounter(
      "whalepod:overrun_tokens_total",
      "Tokens computed for sequences that had ended: the price of sending steps ahead.");
  Counter& audits_ = registry_.AddCounter(
      "whalepod:kv_audits_total",
      "Comparisons of the sequences and KV blocks that a DP group's first rank holds with the "
      "scheduler's: one a step and group.");
  Counter& audit_failures_ = registry_.AddCounter(
      "whalepod:kv_audit_failures_total", "Those that found a difference, which ends the epoch.");
  Family<Gauge>& state_ = registry_.AddGauges(
      "whalepod:deployment_state", {"state"},
      "1 for the state that the deployment is in: starting, ready, stopping, failed.");
  Gauge& epoch_ = registry_.AddGauge("whalepod:epoch", "Epoch of the deployment.");
  Gauge& ranks_ = registry_.AddGauge("whalepod:ranks", "Ranks that the deployment needs.");
  Gauge& ranks_ready_ = registry_.AddGauge("whalepod:ranks_ready", "Ranks that are ready.");
  Family<Gauge>& heartbeat_age_ =
      registry_.AddGauges("whalepod:rank_heartbeat_age_seconds", {"rank"},
                          "Time since the coordinator heard of a rank.");

  // --- Recorded as it happens: requests (request_record.cc).
  friend class RequestRecord;
  Counter& prompt_tokens_ = registry_.AddCounter(
      "vllm:prompt_tokens_total", "Prompt tokens of sequences that have their first token.");
  Counter& generation_tokens_ =
      registry_.AddCounter("vllm:generation_tokens_total", "Tokens generated for clients.");
  Family<Counter>& success_ = registry_.AddCounters(
      "vllm:request_success_total", {"finished_reason"},
      "Sequences that ended: stop, length, abort (the client left, or a deadline), error.");
  Histogram& first_token_ = registry_.AddHistogram(
      "vllm:time_to_first_token_seconds", "From a request's arrival to a sequence's first token.",
      {0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
       1,     2.5,    5,     7.5,  10,   20,   40,   80,   160, 640,  2560});
  Histogram& inter_token_ = registry_.AddHistogram(
      "vllm:inter_token_latency_seconds", "Between two tokens of a sequence.",
      {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,
       0.3,    0.4,     0.5,    0.75,  1,      2.5,   5,    7.5,   10,   20,    40,  80});
  Histogram& per_token_ = registry_.AddHistogram(
      "vllm:request_time_per_output_token_seconds",
      "From the first token to the last, by tokens after the first; of sequences that finished.",
      inter_token_.bounds());
  Histogram& end_to_end_ = registry_.AddHistogram(
      "vllm:e2e_request_latency_seconds",
      "From a request's arrival to a sequence's end; of sequences that finished.", LatencyBounds());
  Histogram& queue_time_ = registry_.AddHistogram(
      "vllm:request_queue_time_seconds", "From a request's arrival until a sequence first runs.",
      LatencyBounds());
  Histogram& prefill_time_ = registry_.AddHistogram(
      "vllm:request_prefill_time_seconds", "From when a sequence first runs to its first token.",
      LatencyBounds());
  Histogram& decode_time_ = registry_.AddHistogram(
      "vllm:request_decode_time_seconds",
      "From the first token to the last; of sequences that finished.", LatencyBounds());
  Histogram& inference_time_ = registry_.AddHistogram(
      "vllm:request_inference_time_seconds",
      "From when a sequence first runs to its last token; of sequences that finished.",
      LatencyBounds());
  Histogram& request_prompt_tokens_ = registry_.AddHistogram(
      "vllm:request_prompt_tokens", "Prompt tokens; of sequences that finished.", TokenBounds());
  Histogram& request_generation_tokens_ =
      registry_.AddHistogram("vllm:request_generation_tokens",
                             "Generated tokens; of sequences that finished.", TokenBounds());
  Histogram& params_n_ = registry_.AddHistogram(
      "vllm:request_params_n", "Answers asked for; of requests taken.", {1, 2, 5, 10, 20});
  Histogram& params_max_tokens_ =
      registry_.AddHistogram("vllm:request_params_max_tokens",
                             "Most tokens of an answer; of requests taken.", TokenBounds());
  Family<Counter>& requests_ = registry_.AddCounters(
      "whalepod:requests_total", {"transport", "outcome"},
      "Requests that ended: finished, rejected, cancelled (the client left), stalled (it read "
      "nothing), expired (a deadline of the request), failed.");
  Family<Counter>& rejected_ =
      registry_.AddCounters("whalepod:requests_rejected_total", {"reason"},
                            "Requests not taken, by ErrorDetail's reason.");
  Family<Counter>& responses_ = registry_.AddCounters(
      "whalepod:http_responses_total", {"route", "code"}, "HTTP responses begun, by status.");

  // --- Recorded as it happens: steps.
  Family<Counter>& steps_ = registry_.AddCounters("whalepod:steps_total", {"kind"},
                                                  "Steps that all ranks answered: work, or empty.");
  Histogram& step_duration_ = registry_.AddHistogram(
      "whalepod:step_duration_seconds",
      "From when a step is the oldest sent to the last rank's answer; of steps with tokens.",
      StepBounds());
  Histogram& step_tokens_ = registry_.AddHistogram(
      "vllm:iteration_tokens_total", "Tokens of a step with any, in all DP groups.",
      {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384});
  Family<Histogram>& rank_step_ = registry_.AddHistograms(
      "whalepod:rank_step_seconds", {"rank"},
      "Time in a rank's executor, waits for its peers included; of steps with tokens.",
      StepBounds());
  Family<Gauge>& expert_load_ = registry_.AddGauges(
      "whalepod:expert_load_max_over_mean", {"layer"},
      "Tokens of a layer's busiest expert over the mean of its experts, in the 64 steps that were "
      "last told of; 1 is even.");

  // Where With() would take a lock on the engine's thread: the values themselves.
  std::array<Counter*, 4> endings_{};
  std::array<std::array<Counter*, kOutcomeNames.size()>, kTransportNames.size()> outcomes_{};
  Counter& work_steps_ = steps_.With({"work"});
  Counter& empty_steps_ = steps_.With({"empty"});
  std::vector<Histogram*> by_rank_;  // of rank_step_
  RateMeter rates_;
};

}  // namespace whalepod
