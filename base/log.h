// Logging to stderr, one line a message: time, level, process name, text. Callers put epoch, step,
// rank and request id into the text where they have them.
#pragma once

#include <string>

#include "spdlog/spdlog.h"

namespace whalepod {

// Call once at the start of main(). `process` names this process in every line ("coordinator",
// "worker 3"). The level comes from WHALEPOD_LOG (trace, debug, info, warn, error), default info.
void InitLogging(const std::string& process);

}  // namespace whalepod
