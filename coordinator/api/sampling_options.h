// From a client's options to what the ranks sample by (docs/sampling.md).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/api/validate.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

// Checks every option but `n` and `stop` and fills `sampling`: absent ones take the model's
// defaults, a missing seed is drawn. INVALID_ARGUMENT names the option, its value and its limit.
absl::Status FillSampling(const ServedModel& model, const v1::GenerationOptions& options,
                          uint64_t prompt_len, v1::SamplingParams* sampling);

// How much reasoning, `reasoning` being where the output begins. FAILED_PRECONDITION if the model
// has no tags that could close it.
absl::Status FillThinking(const ServedModel& model, const v1::GenerationOptions& options,
                          ReasoningStart reasoning, v1::SamplingParams* sampling);

// How many answers are wanted, 1 if nothing is said; `sampling` is FillSampling's.
absl::StatusOr<uint32_t> CheckChoices(const v1::GenerationOptions& options,
                                      const v1::SamplingParams& sampling);

// Sets every option that FillSampling would take from the model's defaults or draw, to what it is
// in `sampling`: the request then asks for the same of any deployment.
void PinSampling(const v1::SamplingParams& sampling, v1::GenerationOptions* options);

}  // namespace whalepod
