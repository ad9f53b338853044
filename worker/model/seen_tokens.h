// The ids that a sequence's penalties look at, counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "kernels/ops.h"

namespace whalepod {

class SeenTokens {
 public:
  void Add(int32_t id, bool generated);
  // Each id once, in order of first appearance. Valid until the next Add.
  absl::Span<const TokenCount> counts() const { return counts_; }

 private:
  std::vector<TokenCount> counts_;
  std::unordered_map<int32_t, size_t> place_;  // in counts_
};

}  // namespace whalepod
