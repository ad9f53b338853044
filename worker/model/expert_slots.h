// Which expert computes which row: the rank's work list of one MoE layer.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace whalepod {

// A contiguous range of tokens whose rows are computed together: slots of a chunk are grouped by
// expert, in order of token within an expert.
struct ExpertChunk {
  int64_t token0 = 0, tokens = 0;
  int64_t slot0 = 0, slots = 0;
  std::vector<int32_t> offsets;  // [local experts + 1], within the chunk
};

// Lists the (token, expert) pairs of this rank's experts, in chunks of at most `max_slots` slots
// (more only if one token alone needs more).
//   ids        [tokens, top_k], experts chosen
//   slots      out [tokens, top_k]: slot within the token's chunk, -1: an expert of another rank
//   row_index  out [all slots]: the token of each slot, chunk by chunk
class ExpertSlots {
 public:
  // `local_experts` ascending, of `experts`.
  ExpertSlots(absl::Span<const int> local_experts, int64_t experts);

  void Assign(int64_t tokens, int64_t top_k, const int32_t* ids, int64_t max_slots, int32_t* slots,
              int32_t* row_index);

  absl::Span<const ExpertChunk> chunks() const { return {chunks_.data(), chunks_.size()}; }
  int64_t total_slots() const { return total_; }

 private:
  int64_t LocalOf(const int32_t* ids, int64_t top_k) const;  // how many of a token's are local
  void AssignChunk(int64_t top_k, const int32_t* ids, int32_t* slots, int32_t* row_index,
                   ExpertChunk& chunk) const;

  std::vector<int32_t> local_;  // [experts]: index among the local ones, or -1
  int64_t local_count_;
  std::vector<ExpertChunk> chunks_;
  int64_t total_ = 0;
};

}  // namespace whalepod
