// The choice of tokens where it is narrowed by penalties, top-k, top-p or the like: that takes
// whole rows of logits, so each such row goes to one rank of the TP group, which samples it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/model/arena.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/exchange.h"

namespace whalepod {

class RowSampler {
 public:
  // ids_of: the vocabulary ids of each TP rank, together the whole vocabulary. Buffers live in
  // `arena`.
  RowSampler(const Dims& dims, std::vector<Range> ids_of, Backend* backend,
             ScheduledExchange* exchange, ActivationArena& arena);

  // Of each of batch.filtered, best[sample] becomes the chosen candidate on the rank that has the
  // row, and none (id -1) on the others.
  //   logits [samples, vocab_ids]: this rank's slice of all rows that sample; best [samples]
  absl::Status Run(const Batch& batch, const float* logits, SampleCandidate* best);

 private:
  // Row j of batch.filtered is TP rank j % tp's; how many of `count` rows are rank t's.
  int64_t OwnedBy(int t, int64_t count) const { return (count - t + dims_.tp - 1) / dims_.tp; }
  // Sends slices of rows to their owners, and puts the own rows together in whole_.
  absl::Status Exchange(const Batch& batch, const float* logits);

  const Dims& dims_;
  const std::vector<Range> ids_of_;  // [tp]
  Backend* backend_;
  ScheduledExchange* exchange_;

  float* scratch_ = nullptr;   // the op's
  float* sent_ = nullptr;      // [S, vocab_ids]: by owner
  float* received_ = nullptr;  // [ceil(S / tp), vocab]: by the rank they come from
  float* whole_ = nullptr;     // [ceil(S / tp), vocab]
};

}  // namespace whalepod
