// One request of a client as it is measured, from its arrival to its end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "coordinator/metrics/serving_metrics.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Not thread-safe: guarded by the lock of whoever owns the request. Times do not go back. Writes
// one line to the log at the end (debug; warn for a failure of ours).
class RequestRecord {
 public:
  // `metrics` outlives the record.
  RequestRecord(ServingMetrics* metrics, Transport transport, TimePoint arrival)
      : metrics_(metrics), transport_(transport), arrival_(arrival) {}

  // Known from here on, whether the engine takes it or not.
  void SetId(const std::string& id) { id_ = id; }
  // The engine has taken all its choices, a sequence each.
  void OnSubmitted(uint32_t choices, uint32_t prompt_tokens, uint32_t max_tokens);
  // A choice runs: the first time counts.
  void OnScheduled(uint32_t choice, TimePoint now);
  void OnToken(uint32_t choice, TimePoint now);
  void OnChoiceEnd(uint32_t choice, v1::FinishReason reason, TimePoint now);
  // Its client takes nothing; OnEnd follows.
  void OnStalled() { stalled_ = true; }
  // The request is over: OK if all choices have ended. `reason`: of the status' ErrorDetail, or
  // empty. Calls after the first do nothing.
  void OnEnd(const absl::Status& status, absl::string_view reason, TimePoint now);

 private:
  struct Choice {
    std::optional<TimePoint> scheduled, first_token;
    TimePoint last_token{};
    uint32_t tokens = 0;
    bool ended = false;
  };

  Outcome OutcomeOf(const absl::Status& status) const;
  void Log(Outcome outcome, const absl::Status& status, TimePoint now) const;

  ServingMetrics* const metrics_;
  const Transport transport_;
  const TimePoint arrival_;
  std::string id_;
  std::vector<Choice> choices_;  // empty: not submitted
  uint32_t prompt_tokens_ = 0;
  bool stalled_ = false;
  bool ended_ = false;
};

}  // namespace whalepod
