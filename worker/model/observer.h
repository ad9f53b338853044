// A tap on the forward pass, for tests and debugging. Called on the rank's own thread.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"
#include "worker/model/batch.h"

namespace whalepod {

class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;

  // The experts chosen for the rank's own rows: ids ascending and weights, [tokens, top_k] each.
  virtual void OnRoutes(int64_t layer, const Batch& batch, int64_t top_k, const int32_t* ids,
                        const float* weights) {}

  // Rows that sample: their hidden state after the last norm, [rows, width] of `type`, and this
  // rank's slice of their logits, [rows, vocab_rows], ids from vocab0 on.
  virtual void OnHead(const Batch& batch, int64_t width, DType type, const void* hidden,
                      int64_t vocab0, int64_t vocab_rows, const float* logits) {}
};

}  // namespace whalepod
