// Final norm, logits and the choice of tokens, split over the vocabulary within a TP group.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "worker/model/arena.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/exchange.h"
#include "worker/model/observer.h"
#include "worker/model/row_sampler.h"
#include "worker/weights/weights.h"

namespace whalepod {

// What one row gave. The same on all ranks of a TP group.
struct Sampled {
  int32_t id = 0;     // sampled, or a score row's target; 0 if there is an error
  float logprob = 0;  // of the raw logits
  struct Top {
    int32_t id = 0;
    float logprob = 0;
  };
  std::vector<Top> top;  // batch.top_k best (fewer in a smaller vocabulary), descending
  std::string error;     // why this row could not be sampled
};

class HeadBlock {
 public:
  // The most best logprobs that a row may ask for.
  static constexpr int64_t kMaxTop = 20;

  HeadBlock(const Dims& dims, const v1::ModelSpec& model, const v1::Layout& layout,
            Backend* backend, ScheduledExchange* exchange, ForwardObserver* observer,
            ActivationArena& arena);

  // One for each of batch.score_rows, then one for each of batch.sample_rows; no other row is
  // computed.   h [batch.tokens, hidden], head [vocab_ids.size(), hidden]
  absl::StatusOr<std::vector<Sampled>> Run(const PlainTensor& norm, const PackedMatrix& head,
                                           const Batch& batch, const float* h);

 private:
  int64_t RowBytes(int tp_rank, int64_t top_k) const;
  // Logits of some rows of h.
  absl::Status Logits(const PlainTensor& norm, const PackedMatrix& head,
                      absl::Span<const int32_t> h_rows, const float* h);
  // Candidates of the rows in logits_, which become rows [first, ..) of the results.
  absl::Status Score(const Batch& batch, absl::Span<const ScoreRow> rows, int64_t first);
  absl::Status Sample(const Batch& batch, int64_t first);
  SampleArgs Candidates(const Batch& batch, int64_t rows, int64_t first) const;
  absl::Status Gather(int64_t rows, int64_t top_k);
  Sampled Choose(int64_t rows, int64_t top_k, int64_t row) const;

  const Dims& dims_;
  const int64_t piece_;  // P: rows whose logits are held at once; all that sample are
  Backend* backend_;
  ScheduledExchange* exchange_;
  ForwardObserver* observer_;
  std::vector<int64_t> segments_of_;  // [tp]

  float* rows_ = nullptr;            // [P, hidden]: rows of h
  void* x_ = nullptr;                // [P, hidden] activation type
  float* logits_ = nullptr;          // [P, vocab_ids]
  SampleCandidate* best_ = nullptr;  // [T]
  float* segment_max_ = nullptr;     // [T, vocab_segments]
  float* segment_sum_ = nullptr;     // [T, vocab_segments]
  SampleCandidate* top_ = nullptr;   // [T, top_k]
  std::byte* all_ = nullptr;         // per TP rank [T, RowBytes]
  std::optional<RowSampler> filtered_;
};

}  // namespace whalepod
