// Token embeddings, split over the vocabulary within a TP group.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/model/arena.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/exchange.h"
#include "worker/weights/weights.h"

namespace whalepod {

// h = embed[id]. Each rank looks up the rows of the ids it holds and sends them; every rank knows
// from the ids who holds which, so rows only move and nothing is added.
class EmbeddingBlock {
 public:
  EmbeddingBlock(const Dims& dims, const v1::ModelSpec& model, const v1::Layout& layout,
                 Backend* backend, ScheduledExchange* exchange, ActivationArena& arena);

  // table [vocab_ids.size(), hidden]; h out [batch.tokens, hidden].
  absl::Status Run(const PlainTensor& table, const Batch& batch, float* h);

 private:
  int OwnerOf(int32_t id) const;

  const Dims& dims_;
  Backend* backend_;
  ScheduledExchange* exchange_;
  std::vector<Range> ids_of_;  // [tp]
  std::vector<int32_t> own_;   // ids of this rank's rows, in order of token
  float* gathered_ = nullptr;  // [T, hidden], by owner; only if tp > 1
};

}  // namespace whalepod
