#include "coordinator/text/stop_strings.h"

#include <algorithm>

namespace whalepod {

bool StopStrings::Add(const TextSpan& span, std::vector<TextSpan>& out) {
  if (span.kind != kind_) {
    Finish(out);
    kind_ = span.kind;
  }
  held_ += span.text;
  const std::string* found = nullptr;
  size_t begin = 0, end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos || at + stop.size() > end) continue;
    if (at + stop.size() == end && at >= begin) continue;
    found = &stop;
    begin = at;
    end = at + stop.size();
  }
  if (found != nullptr) {
    stopped_by_ = *found;
    Pass(begin, out);
    held_.clear();
    return true;
  }
  Pass(held_.size() - BeginningAtEnd(), out);
  return false;
}

void StopStrings::Finish(std::vector<TextSpan>& out) { Pass(held_.size(), out); }

size_t StopStrings::BeginningAtEnd() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
        longest = n;
        break;
      }
    }
  }
  return longest;
}

void StopStrings::Pass(size_t bytes, std::vector<TextSpan>& out) {
  if (bytes == 0) return;
  if (out.empty() || out.back().kind != kind_) out.push_back({.kind = kind_, .text = ""});
  out.back().text.append(held_, 0, bytes);
  held_.erase(0, bytes);
}

}  // namespace whalepod
