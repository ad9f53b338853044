#include "coordinator/text/added_tokens.h"

#include "base/check.h"

namespace whalepod {

void AddedTokenMatcher::Add(absl::string_view content, uint32_t id) {
  CHECK(!content.empty());
  first_[static_cast<unsigned char>(content[0])] = true;
  uint32_t node = 0;
  for (const char c : content) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [child, added] = children_.try_emplace(key, static_cast<uint32_t>(ends_.size()));
    if (added) ends_.push_back(kNone);
    node = child->second;
  }
  if (ends_[node] == kNone) ends_[node] = id;
}

AddedTokenMatcher::Match AddedTokenMatcher::Find(absl::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!first_[static_cast<unsigned char>(text[begin])]) continue;
    Match match{.begin = begin, .end = begin};
    uint32_t node = 0;
    for (size_t at = begin; at < text.size(); ++at) {
      const auto child = children_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[at]));
      if (child == children_.end()) break;
      node = child->second;
      if (ends_[node] != kNone) {
        match.end = at + 1;
        match.id = ends_[node];
      }
    }
    if (match.end > begin) return match;
  }
  return Match{.begin = text.size(), .end = text.size()};
}

}  // namespace whalepod
