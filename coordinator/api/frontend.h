// What all transports of the client API share: the model served, whether it is ready, and the way
// from a request to the engine.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/api/api_keys.h"
#include "coordinator/api/generation.h"
#include "coordinator/api/usage_answer.h"
#include "coordinator/api/validate.h"
#include "coordinator/api/work_pool.h"
#include "coordinator/metrics/request_record.h"
#include "coordinator/metrics/serving_metrics.h"
#include "coordinator/sched/engine.h"
#include "coordinator/usage/usage_store.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Thread-safe.
class Frontend {
 public:
  // Fills GetStatus's answer.
  using StatusFn = std::function<void(v1::GetStatusResponse*)>;

  // Not ready; `model` is told in the meantime. `metrics` and `usage` outlive this.
  Frontend(ServedModel model, StatusFn status, ServingMetrics* metrics, UsageStore* usage,
           ApiKeys keys = ApiKeys(), const Clock* clock = Clock::Real());

  // From now on requests go to `engine`, which outlives this.
  void SetReady(ServedModel model, Engine* engine);
  // From now on requests end with `why`; those with the engine go on.
  void SetNotReady(const absl::Status& why);

  bool ready() const;
  std::shared_ptr<const ServedModel> model() const;
  void FillStatus(v1::GetStatusResponse* status) const { status_(status); }
  const Clock* clock() const { return clock_; }
  ServingMetrics* metrics() const { return metrics_; }
  // A request that has just arrived.
  RequestRecord NewRecord(Transport transport) const {
    return RequestRecord(metrics_, usage_, transport, clock_->Now());
  }
  // What GET /metrics answers.
  std::string MetricsText() const;

  // Who asks, by the header `authorization`; see ApiKeys. Everything but health asks this first.
  absl::StatusOr<std::string> CallerOf(absl::string_view authorization) const {
    return keys_.NameOf(authorization);
  }

  // A request, and what it begins.
  struct Call {
    std::shared_ptr<Generation> generation;
    std::shared_ptr<const v1::GenerateRequest> request;
  };
  // Checks requests, each by itself, and begins their generations, or refuses them; may return
  // before that. Text is encoded on threads of its own, that of one call of this as one task.
  // `caller`: CallerOf's, whose share they take.
  void Generate(std::vector<Call> calls, std::string caller);
  void Generate(std::shared_ptr<Generation> generation,
                std::shared_ptr<const v1::GenerateRequest> request, std::string caller) {
    Generate({{std::move(generation), std::move(request)}}, std::move(caller));
  }

  // A request that can be given to the engine.
  struct Admitted {
    Engine* engine = nullptr;
    std::shared_ptr<const ServedModel> model;
    CheckedGenerate checked;
  };
  // What Generate checks, for requests that arrived at `arrival`; takes as long as encoding does.
  absl::StatusOr<Admitted> Admit(const v1::GenerateRequest& request, const std::string& caller,
                                 TimePoint arrival) const;

  // What Admit would find wrong with the request itself; nothing while its limits are not known.
  absl::Status Check(const v1::GenerateRequest& request) const;

  // Errors as the answer to a client.
  absl::Status Tokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse* response) const;
  absl::Status Detokenize(const v1::DetokenizeRequest& request,
                          v1::DetokenizeResponse* response) const;
  // The accounts that `caller` may see. Waits for the disk.
  absl::Status GetUsage(const std::string& caller, const v1::GetUsageRequest& request,
                        v1::GetUsageResponse* response) const {
    return AnswerUsage(*usage_, caller, keys_.SeesAllUsage(caller), request, response);
  }
  // Runs `work`, Tokenize or Detokenize, on a thread for text; RESOURCE_EXHAUSTED if too many wait.
  absl::Status RunTextWork(std::function<void()> work);

 private:
  struct Serving {
    std::shared_ptr<const ServedModel> model;
    Engine* engine = nullptr;
    absl::Status not_ready;
  };

  Serving Now() const;
  // Says how far the deployment is, where it is on its way.
  absl::Status NotReady(const absl::Status& why) const;
  void Begin(Generation* generation, const v1::GenerateRequest& request, const std::string& caller,
             TimePoint arrival);

  const StatusFn status_;
  ServingMetrics* const metrics_;
  UsageStore* const usage_;
  const ApiKeys keys_;
  const Clock* const clock_;
  mutable std::mutex scrape_mu_;  // a scrape sets what it then reads
  mutable std::mutex mu_;
  Serving serving_;
  const uint32_t id_prefix_;
  std::atomic<uint64_t> next_id_{0};
  WorkPool text_work_;  // last: its tasks use the rest
};

}  // namespace whalepod
