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

  // Takes the step's results: tokens are computed, sampled ones known. `sampled` is by
  // batch.sample_rows. Returns what TP rank 0 reports.
  std::vector<v1::SampledToken> Commit(const Batch& batch, absl::Span<const Sampled> sampled);

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

    int64_t known() const { return static_cast<int64_t>(tokens.size()); }
    int64_t pending() const { return known() - computed; }
  };

  absl::Status Add(const v1::NewSequence& entry);
  absl::Status SetRows(const v1::StepPlan& step);
  // The live sequence of an entry; null if it is of another DP group.
  template <typename Entry>
  absl::StatusOr<Sequence*> Find(const Entry& entry, const char* what);
  absl::Status CheckGroup(uint32_t slot, uint32_t dp_group, const char* what) const;
  absl::Status CheckRoom(uint32_t slot, const Sequence& sequence) const;
  absl::Status SetGroupTokens(const v1::StepPlan& step, Batch& batch) const;
  void AddRow(const Sequence& sequence, int64_t position, Batch& batch) const;
  void AddSample(uint32_t slot, const Sequence& sequence, int64_t row, Batch& batch) const;

  const Dims& dims_;
  const LatentPool& pool_;
  std::vector<std::optional<Sequence>> slots_;  // [max_num_seqs]
};

}  // namespace whalepod
