#include "base/log.h"

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <utility>

#include "base/compact_json.h"
#include "nlohmann/json.hpp"
#include "spdlog/sinks/stdout_sinks.h"

namespace whalepod {
namespace {

thread_local const LogScope* innermost = nullptr;
std::atomic<int> rank{-1};
std::atomic<uint64_t> epoch{0};
std::atomic<uint64_t> step{0};

// "2026-01-31T23:59:59.999Z".
std::string UtcTime(spdlog::log_clock::time_point time) {
  const auto since = time.time_since_epoch();
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since);
  const auto millis = std::chrono::duration_cast<std::chrono::milliseconds>(since - seconds);
  const std::time_t whole = seconds.count();
  std::tm utc{};
  gmtime_r(&whole, &utc);
  char text[32];
  const size_t size = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:03}Z", std::string(text, size), millis.count());
}

}  // namespace

// One JSON object a line. Bytes that are no UTF-8 are written as U+FFFD.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& to) override {
    nlohmann::ordered_json line;
    line["time"] = UtcTime(message.time);
    const auto level = spdlog::level::to_string_view(message.level);
    line["level"] = std::string(level.data(), level.size());
    line["process"] = std::string(message.logger_name.data(), message.logger_name.size());
    if (epoch != 0) line["epoch"] = epoch.load();
    if (step != 0) line["step"] = step.load();
    if (rank >= 0) line["rank"] = rank.load();
    AddScope(innermost, line);
    line["message"] = std::string(message.payload.data(), message.payload.size());
    const std::string text = CompactJson(line) + "\n";
    to.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }

 private:
  static void AddScope(const LogScope* scope, nlohmann::ordered_json& line) {
    if (scope == nullptr) return;
    AddScope(scope->outer_, line);
    for (const LogField& field : scope->fields_) {
      if (const auto* whole = absl::get_if<int64_t>(&field.value)) line[field.name] = *whole;
      if (const auto* real = absl::get_if<double>(&field.value)) line[field.name] = *real;
      if (const auto* text = absl::get_if<absl::string_view>(&field.value)) {
        line[field.name] = std::string(*text);
      }
    }
  }
};

LogScope::LogScope(std::vector<LogField> fields) : fields_(std::move(fields)), outer_(innermost) {
  innermost = this;
}

LogScope::~LogScope() { innermost = outer_; }

std::map<std::string, LogFormat> LogFormats() {
  return {{"text", LogFormat::kText}, {"json", LogFormat::kJson}};
}

void SetLogRank(int value) { rank = value; }
void SetLogEpoch(uint64_t value) { epoch = value; }
void SetLogStep(uint64_t value) { step = value; }

void InitLogging(const std::string& process, LogFormat format) {
  auto logger =
      std::make_shared<spdlog::logger>(process, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (format == LogFormat::kJson) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%H:%M:%S.%e %^%L%$ [%n] %v");
  }
  const char* level = std::getenv("WHALEPOD_LOG");
  logger->set_level(level != nullptr ? spdlog::level::from_str(level) : spdlog::level::info);
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace whalepod
