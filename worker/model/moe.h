// The mixture-of-experts FFN of one layer.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/model/arena.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/exchange.h"
#include "worker/model/expert_slots.h"
#include "worker/model/ffn.h"
#include "worker/model/layer_weights.h"
#include "worker/model/observer.h"
#include "worker/model/product.h"

namespace whalepod {

// h += experts(rmsnorm(h)) + shared(rmsnorm(h)). Each rank routes its own group's tokens, runs the
// experts it holds on the tokens of all groups, and sums the slice of its own tokens' outputs that
// it owns. n below is the number of tokens of all DP groups, N the most of it.
class MoeBlock {
 public:
  MoeBlock(const Dims& dims, Backend* backend, ScheduledExchange* exchange, SliceExchange* slices,
           ForwardObserver* observer, ActivationArena& arena);

  // h [batch.tokens, hidden].
  absl::Status Run(int64_t layer, const PlainTensor& norm, const MoeWeights& w, const Batch& batch,
                   float* h);

  // Tokens that this rank's experts ran, [layers, local experts] by layer and index in
  // Dims::local_experts, since the last ClearLoad.
  const std::vector<uint64_t>& load() const { return load_; }
  void ClearLoad() { load_.assign(load_.size(), 0); }

  // (token, expert) pairs whose gate, up and output rows are held at once.
  static constexpr int64_t kChunkSlots = 4096;

 private:
  // What the experts run on: rows of all groups.
  struct Tokens {
    int64_t count = 0;        // n
    const void* x = nullptr;  // [n, hidden] activation type, rows ldx apart
    int64_t ldx = 0;
    const int32_t* ids = nullptr;    // [n, top_k]
    const float* weights = nullptr;  // [n, top_k]
  };

  absl::Status Route(int64_t layer, const MoeWeights& w, const Batch& batch, float* h);
  absl::StatusOr<Tokens> Dispatch(int64_t layer, const Batch& batch);
  void CountLoad(int64_t layer);
  absl::Status RunExperts(int64_t layer, const MoeWeights& w, const Tokens& tokens);
  absl::Status GateUp(const MoeWeights& w, const ExpertChunk& chunk, const Operand& x, void* act);
  absl::Status GatherActivations(int64_t layer);
  void AssembleActivations(const ExpertChunk& chunk);
  absl::Status DownAndCombine(const MoeWeights& w, const ExpertChunk& chunk, const Tokens& tokens);
  absl::Status ReduceExperts(int64_t layer, const Batch& batch);

  const Dims& dims_;
  Backend* backend_;
  ScheduledExchange* exchange_;
  SliceExchange* slices_;
  ForwardObserver* observer_;
  ExpertSlots work_;
  std::vector<uint64_t> load_;
  int64_t chunk_slots_;     // C
  int64_t dispatch_bytes_;  // of one dispatched row: x, ids, weights

  void* x_ = nullptr;                // [T, hidden] activation type
  QuantBuffer x_quant_;              // [T, hidden]
  float* logits_ = nullptr;          // [T, experts]
  int32_t* ids_ = nullptr;           // [N, top_k]: own tokens while routing, then all
  float* weights_ = nullptr;         // [N, top_k]
  std::byte* dispatched_ = nullptr;  // [N, dispatch_bytes_]; only if dp > 1
  QuantBuffer all_quant_;            // [N, hidden]; only if dp > 1
  int32_t* slot_of_ = nullptr;       // [N, top_k]
  int32_t* row_index_ = nullptr;     // [slots of all chunks]
  float* gate_ = nullptr;            // [C, expert_width]
  float* up_ = nullptr;              // [C, expert_width]
  void* act_mine_ = nullptr;         // [all slots, expert_width]; only if moe_tp > 1
  std::byte* act_all_ = nullptr;     // per moe_tp rank [all slots, its expert_width]; as above
  void* act_ = nullptr;              // [C, moe_intermediate] activation type
  QuantBuffer act_quant_;            // [C, moe_intermediate]
  float* down_ = nullptr;            // [C, expert_columns]
  float* out_ = nullptr;             // [N, expert_columns]: sums over this rank's experts
  float* packed_ = nullptr;          // [N * expert_columns], by owner; only if world > 1
  float* received_ = nullptr;        // [ep, T, slice]; only if world > 1
  float* y_ = nullptr;               // [T, slice]
  SwiGluFfn shared_;
  float* shared_partial_ = nullptr;  // [T, hidden]
};

}  // namespace whalepod
