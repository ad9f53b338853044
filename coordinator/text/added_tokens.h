// Tokens that are found in the text before it is split: control tokens and the like.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace whalepod {

// Finds the longest of a set of tokens at the leftmost place. Immutable after the last Add.
class AddedTokenMatcher {
 public:
  // `content` is not empty. A content that was added already is not added again.
  void Add(absl::string_view content, uint32_t id);
  bool empty() const { return ends_.size() == 1; }

  struct Match {
    size_t begin = 0;
    size_t end = 0;  // == begin: no match
    uint32_t id = 0;
  };
  // The first match at or after `from`.
  Match Find(absl::string_view text, size_t from) const;

 private:
  static constexpr uint32_t kNone = ~0u;

  // A trie. ends_[node] is the id of the token that ends there; node 0 is the root.
  std::vector<uint32_t> ends_ = {kNone};
  absl::flat_hash_map<uint64_t, uint32_t> children_;  // node << 8 | byte
  bool first_[256] = {};
};

}  // namespace whalepod
