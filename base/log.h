// Logging to stderr, one line a message: time, level, process name, text; or a JSON object with
// these and what else is known: epoch, step, rank, request_id. In a text line callers put those
// into the text where they have them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/variant.h"
#include "spdlog/spdlog.h"

namespace whalepod {

enum class LogFormat { kText, kJson };
// By name, for flags.
std::map<std::string, LogFormat> LogFormats();

// Call once at the start of main(). `process` names this process in every line ("coordinator",
// "worker 3"). The level comes from WHALEPOD_LOG (trace, debug, info, warn, error), default info.
void InitLogging(const std::string& process, LogFormat format = LogFormat::kText);

// Members of every JSON line of this process from now on. Thread-safe.
void SetLogRank(int rank);
void SetLogEpoch(uint64_t epoch);
void SetLogStep(uint64_t step);

// A member of a JSON line. The text is not copied.
struct LogField {
  const char* name;
  absl::variant<int64_t, double, absl::string_view> value;
};

// Gives the JSON lines that this thread logs more members, as long as it lives; the innermost of a
// name counts.
class LogScope {
 public:
  explicit LogScope(const LogField& field) : LogScope(std::vector<LogField>{field}) {}
  explicit LogScope(std::vector<LogField> fields);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  friend class JsonFormatter;
  const std::vector<LogField> fields_;
  const LogScope* const outer_;
};

}  // namespace whalepod
