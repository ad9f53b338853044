// How a completion is shown.
#pragma once

#include <string>

#include "coordinator/cli/client.h"

namespace whalepod {

// The line that `generate --json` prints: docs of the keys are in README.md. No newline.
std::string AnswerJson(const Client::Answer& answer, bool with_logprobs);

}  // namespace whalepod
