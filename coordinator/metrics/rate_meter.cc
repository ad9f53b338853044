#include "coordinator/metrics/rate_meter.h"

namespace whalepod {

void RateMeter::Note(TimePoint now, const Totals& totals) {
  std::lock_guard lock(mu_);
  latest_ = {now, totals};
  if (!kept_.empty() && now - kept_.back().time < std::chrono::seconds(1)) return;
  kept_.push_back(latest_);
  // One that is older than the window stays until the next has filled it.
  while (kept_.size() > 1 && now - kept_[1].time >= kWindow) kept_.pop_front();
}

RateMeter::Rates RateMeter::Read(TimePoint now) const {
  std::lock_guard lock(mu_);
  if (kept_.empty()) return {};
  size_t first = 0;
  while (first + 1 < kept_.size() && now - kept_[first].time > kWindow) ++first;
  const Sample& from = kept_[first];
  const Duration over = now - from.time;
  if (over <= Duration(0)) return {};
  const double seconds = std::chrono::duration<double>(over).count();
  const auto rate = [&](uint64_t Totals::*total) {
    return static_cast<double>(latest_.totals.*total - from.totals.*total) / seconds;
  };
  return {.prompt_tokens = rate(&Totals::prompt_tokens),
          .generation_tokens = rate(&Totals::generation_tokens),
          .requests = rate(&Totals::requests),
          .over = over};
}

}  // namespace whalepod
