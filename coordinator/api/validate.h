// From a client's request to the scheduler's: every field checked, every default filled in.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "coordinator/api/prompt.h"
#include "coordinator/checkpoint/generation_defaults.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/text/model_text.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// What requests are checked against.
struct ServedModel {
  std::string name;
  std::string model_type;
  uint32_t vocab_size = 0;
  uint32_t max_model_len = 0;  // tokens of one sequence, prompt and output
  uint64_t kv_tokens = 0;      // the most tokens that one sequence's KV can have
  std::vector<uint32_t> eos_token_ids;
  uint32_t bos_token_id = 0;
  GenerationDefaults defaults;
  ModelText text;
  std::string plan_hash;
  std::string layout;
  std::string identity;  // equal for deployments that answer every request with the same tokens
};

// Started's fingerprint: equal for requests whose tokens are the same as far as both go. 16 digits.
std::string FingerprintOf(const ServedModel& model, const SchedulerRequest& request);

// INVALID_ARGUMENT names the first id of `field` that is not in the vocabulary.
absl::Status CheckTokenIds(const ServedModel& model, const std::string& field,
                           absl::Span<const uint32_t> ids);

// NOT_FOUND for a name that is neither empty nor the model's.
absl::Status CheckModelName(const ServedModel& model, const std::string& name);

// INVALID_ARGUMENT for one outside of [-1000, 1000].
absl::Status CheckPriority(int32_t priority);

struct CheckedGenerate {
  SchedulerRequest request;  // of choice 0; the others differ in `choice` alone
  uint32_t n = 1;            // choices
  ReasoningStart reasoning = ReasoningStart::kClosed;  // where the output begins
  std::vector<std::string> stop;
  // Of a request that an earlier deployment has begun: what it sampled (id and logprobs), none of
  // which ended it. Only where n is 1.
  std::vector<v1::GeneratedToken> history;
};

// INVALID_ARGUMENT names field, value and limit; NOT_FOUND an unknown model; FAILED_PRECONDITION
// a prompt that needs a tokenizer or a chat template. A missing seed is drawn. Timeouts count from
// `arrival`.
absl::StatusOr<CheckedGenerate> ValidateGenerate(const ServedModel& model,
                                                 const v1::GenerateRequest& request,
                                                 TimePoint arrival);

}  // namespace whalepod
