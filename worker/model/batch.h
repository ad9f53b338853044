// The rows of one step on one rank.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace whalepod {

// A run of prompt rows of one sequence: rows [row0, row0 + rows) at positions pos0, pos0 + 1, ...
struct PromptSpan {
  int64_t row0 = 0;
  int64_t rows = 0;
  int64_t pos0 = 0;
  const int32_t* block_table = nullptr;
};

// A row whose logits are sampled from.
struct SampleRow {
  int32_t row = 0;
  uint32_t slot = 0;
};

// A prompt row whose logits tell how likely the prompt's next token was.
struct ScoreRow {
  int32_t row = 0;
  uint32_t slot = 0;
  int32_t target = 0;     // that token
  uint32_t position = 0;  // its place in the prompt
};

// A sampling row whose choice is narrowed; filter.logits is the head's to set.
struct FilteredSample {
  int64_t sample = 0;  // index into sample_rows
  SampleFilter filter;
};

// A ragged batch of the rank's DP group. Prompt rows come first (by slot, then position), then the
// generated ones (by slot, then position): a token's role decides its form of attention, also in a
// recompute chunk that holds both. Block tables belong to the sequences and outlive the step.
struct Batch {
  int64_t tokens = 0;
  int64_t prompt_rows = 0;
  std::vector<int32_t> ids;                  // [tokens]
  std::vector<int32_t> positions;            // [tokens]
  std::vector<int64_t> cache_slots;          // [tokens]: block * block_tokens + offset
  std::vector<const int32_t*> block_tables;  // [tokens]
  std::vector<PromptSpan> prompt_spans;      // cover rows [0, prompt_rows)
  std::vector<int64_t> group_tokens;         // [dp]: rows of every DP group in this step
  // Rows that sample, by slot, and what sampling them needs.
  std::vector<SampleRow> sample_rows;
  std::vector<float> temperature;   // [sample_rows]
  std::vector<uint64_t> seed;       // [sample_rows]
  std::vector<uint32_t> generated;  // [sample_rows]: index of the token to be sampled
  std::vector<uint32_t> choice;     // [sample_rows]
  // Ascending; what their filters point to belongs to the sequences and outlives the step.
  std::vector<FilteredSample> filtered;
  std::vector<ScoreRow> score_rows;  // by slot, then position
  int64_t top_k = 0;                 // the largest number of best logprobs that a row asked for

  int64_t generated_rows() const { return tokens - prompt_rows; }
  int64_t samples() const { return static_cast<int64_t>(sample_rows.size()); }
  int64_t scores() const { return static_cast<int64_t>(score_rows.size()); }
};

}  // namespace whalepod
