// The live sequences of a rank's DP group: what steps change, and the rows they give.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "whalepod/v1/step.pb.h"
#include "worker/kv/latent_pool.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/head.h"
#include "worker/model/seen_tokens.h"
#include "worker/model/thinking_budget.h"

namespace whalepod {

// Follows the coordinator's steps (docs/life-of-a-request.md, "Steps"). In each step: Apply, then
// Layout, then the forward, then Commit. FAILED_PRECONDITION means that the coordinator and this
// rank disagree about the state; the message says about what.
class SequenceTable {
 public:
  // Both outlive the table.
  SequenceTable(const Dims& dims, const LatentPool& pool);

  // Stopped, new sequences, granted blocks; checks the prefill chunks.
  absl::Status Apply(const v1::StepPlan& step);

  // The rows of this step. Block tables in it are valid until the next Apply.
  absl::StatusOr<Batch> Layout(const v1::StepPlan& step);

  // What TP rank 0 reports of a step.
  struct Results {
    std::vector<v1::SampledToken> tokens;
    std::vector<v1::PromptLogprob> prompt;
  };
  // Takes the step's results: tokens are computed, sampled ones known. `results` is as
  // HeadBlock::Run's: of batch.score_rows, then of batch.sample_rows.
  Results Commit(const Batch& batch, absl::Span<const Sampled> results);

  // What the live sequences are; a block that several share counts for each.
  struct Held {
    uint32_t sequences = 0;
    uint32_t blocks = 0;
  };
  Held held() const;

  // FNV-1a-64 over the live sequences (docs/life-of-a-request.md).
  uint64_t Digest() const;

 private:
  struct Sequence {
    uint64_t id = 0;
    std::vector<uint32_t> tokens;  // known: prompt, then generated
    int64_t prompt_len = 0;
    int64_t computed = 0;   // tokens whose latents are cached
    int64_t step_rows = 0;  // tokens that this step computes
    bool decoding = false;  // it has sampled
    BlockTable blocks;
    v1::SamplingParams sampling;
    // What sampling narrows the choice by, in the form that the op takes.
    SeenTokens seen;  // only where there are penalties
    std::vector<LogitBias> bias;
    std::vector<int32_t> banned;  // before min_tokens tokens
    ThinkingBudget thinking;
    std::vector<LogitBias> closing;  // `bias`, and all for the tag that ends reasoning

    int64_t known() const { return static_cast<int64_t>(tokens.size()); }
    int64_t pending() const { return known() - computed; }
    int64_t generated() const { return known() - prompt_len; }
    bool has_penalties() const;
  };

  absl::Status Add(const v1::NewSequence& entry);
  absl::Status CheckNew(const v1::NewSequence& entry) const;
  absl::Status CheckSampling(const v1::SamplingParams& sampling) const;
  absl::Status SetRows(const v1::StepPlan& step);
  // The live sequence of an entry; null if it is of another DP group.
  template <typename Entry>
  absl::StatusOr<Sequence*> Find(const Entry& entry, const char* what);
  absl::Status CheckGroup(uint32_t slot, uint32_t dp_group, const char* what) const;
  absl::Status CheckRoom(uint32_t slot, const Sequence& sequence) const;
  absl::Status SetGroupTokens(const v1::StepPlan& step, Batch& batch) const;
  void AddRow(const Sequence& sequence, int64_t position, Batch& batch) const;
  void AddSample(uint32_t slot, const Sequence& sequence, int64_t row, Batch& batch) const;
  static void AddFilter(const Sequence& sequence, Batch& batch);
  // Rows of a prompt span whose next token is to be scored.
  static void AddScores(uint32_t slot, const Sequence& sequence, const PromptSpan& span,
                        Batch& batch);

  const Dims& dims_;
  const LatentPool& pool_;
  std::vector<std::optional<Sequence>> slots_;  // [max_num_seqs]
};

}  // namespace whalepod
