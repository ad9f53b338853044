// The parts of config.json and generation_config.json beyond ParseModelConfig (checkpoint.h).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "coordinator/checkpoint/checkpoint.h"

namespace whalepod {

// Applies generation_config.json's text: end and begin tokens replace those of `model`, the
// rest goes to `defaults` (do_sample counts for nothing, as in vLLM); what it does not state stays.
// INVALID_ARGUMENT names the key.
absl::Status ApplyGenerationConfig(absl::string_view json, const std::string& where,
                                   v1::ModelSpec& model, GenerationDefaults& defaults);

}  // namespace whalepod
