// Final norm, logits and the choice of tokens, split over the vocabulary within a TP group.
#pragma once

#include <cstdint>
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
#include "worker/weights/weights.h"

namespace whalepod {

// What one row's sampling gave. The same on all ranks of a TP group.
struct Sampled {
  int32_t id = 0;     // 0 if there is an error
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

  HeadBlock(const Dims& dims, const v1::Layout& layout, Backend* backend,
            ScheduledExchange* exchange, ForwardObserver* observer, ActivationArena& arena);

  // h [batch.tokens, hidden]; only rows that sample are computed. head [vocab_ids.size(), hidden].
  absl::StatusOr<std::vector<Sampled>> Run(const PlainTensor& norm, const PackedMatrix& head,
                                           const Batch& batch, const float* h);

 private:
  int64_t RowBytes(int tp_rank, int64_t top_k) const;
  absl::Status Logits(const PlainTensor& norm, const PackedMatrix& head, const Batch& batch,
                      const float* h);
  absl::Status Candidates(const Batch& batch);
  absl::Status Gather(const Batch& batch);
  Sampled Choose(const Batch& batch, int64_t row) const;

  const Dims& dims_;
  Backend* backend_;
  ScheduledExchange* exchange_;
  ForwardObserver* observer_;
  std::vector<int64_t> segments_of_;  // [tp]

  float* rows_ = nullptr;            // [S, hidden]: h of the rows that sample
  void* x_ = nullptr;                // [S, hidden] activation type
  float* logits_ = nullptr;          // [S, vocab_ids]
  SampleCandidate* best_ = nullptr;  // [S]
  float* segment_max_ = nullptr;     // [S, vocab_segments]
  float* segment_sum_ = nullptr;     // [S, vocab_segments]
  SampleCandidate* top_ = nullptr;   // [S, top_k]
  std::byte* all_ = nullptr;         // per TP rank [S, RowBytes]
};

}  // namespace whalepod
