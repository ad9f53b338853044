#include "base/log.h"

#include <cstdlib>

#include "spdlog/sinks/stdout_sinks.h"

namespace whalepod {

void InitLogging(const std::string& process) {
  auto logger =
      std::make_shared<spdlog::logger>(process, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_pattern("%H:%M:%S.%e %^%L%$ [%n] %v");
  const char* level = std::getenv("WHALEPOD_LOG");
  logger->set_level(level != nullptr ? spdlog::level::from_str(level) : spdlog::level::info);
  logger->flush_on(spdlog::level::trace);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace whalepod
