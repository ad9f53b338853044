#include "worker/model/moe.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/status.h"

namespace whalepod {
namespace {

Range Intersect(Range a, Range b) {
  const int64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

int64_t MaxLocal(const Dims& d) {
  return std::min(d.top_k, static_cast<int64_t>(d.local_experts.size()));
}

int64_t ChunkSlots(const Dims& d) {
  return std::max(MaxLocal(d), std::min(MoeBlock::kChunkSlots, d.all_tokens() * MaxLocal(d)));
}

// The activation row, padded to whole floats, then ids and weights.
int64_t DispatchXBytes(const Dims& d) { return (d.hidden * SizeOf(d.type) + 3) / 4 * 4; }

// c[s] = operand[row_index[s]] * w[expert of s]^T over a chunk's slots.
absl::Status GroupedMultiply(Backend* backend, const ExpertChunk& chunk, const Operand& operand,
                             const int32_t* row_index, const std::vector<PackedMatrix>& w, float* c,
                             int64_t ldc) {
  if (chunk.slots == 0) return absl::OkStatus();
  const bool quantised = operand.quantised != nullptr && w[0].dtype == DType::kF8E4M3;
  return backend->GroupedMatMul({.w = w,
                                 .offsets = chunk.offsets.data(),
                                 .row_index = row_index,
                                 .a = quantised ? operand.quantised : operand.a,
                                 .a_type = quantised ? DType::kBF16 : operand.type,
                                 .lda = quantised ? operand.k : operand.lda,
                                 .c = c,
                                 .c_type = DType::kF32,
                                 .ldc = ldc,
                                 .a_scales = quantised ? operand.scales : nullptr,
                                 .lda_scales = operand.groups});
}

}  // namespace

MoeBlock::MoeBlock(const Dims& d, Backend* backend, ScheduledExchange* exchange,
                   SliceExchange* slices, ForwardObserver* observer, ActivationArena& arena)
    : dims_(d),
      backend_(backend),
      exchange_(exchange),
      slices_(slices),
      observer_(observer),
      work_(d.local_experts, d.experts),
      load_(d.layers * d.local_experts.size()),
      chunk_slots_(ChunkSlots(d)),
      dispatch_bytes_(DispatchXBytes(d) + d.top_k * 8),
      x_(arena.Take(d.max_tokens * d.hidden * SizeOf(d.type))),
      x_quant_(d, d.max_tokens, d.hidden, 1, arena),
      shared_(d, backend, d.shared, d.shared_segment, arena) {
  const int64_t act = SizeOf(d.type);
  const int64_t n = d.all_tokens();
  const int64_t slots = n * MaxLocal(d);
  logits_ = arena.Take<float>(d.max_tokens * d.experts);
  ids_ = arena.Take<int32_t>(n * d.top_k);
  weights_ = arena.Take<float>(n * d.top_k);
  if (d.dp > 1) {
    dispatched_ = arena.Take(n * dispatch_bytes_);
    all_quant_ = QuantBuffer(d, n, d.hidden, 1, arena);
  }
  slot_of_ = arena.Take<int32_t>(n * d.top_k);
  row_index_ = arena.Take<int32_t>(slots);
  gate_ = arena.Take<float>(chunk_slots_ * d.ExpertWidthOf(0).size());
  up_ = arena.Take<float>(chunk_slots_ * d.ExpertWidthOf(0).size());
  if (d.moe_tp > 1) {
    act_mine_ = arena.Take(slots * d.ExpertWidthOf(0).size() * act);
    act_all_ = arena.Take(slots * d.moe_intermediate * act);
  }
  act_ = arena.Take(chunk_slots_ * d.moe_intermediate * act);
  act_quant_ = QuantBuffer(d, chunk_slots_, d.moe_intermediate, 1, arena);
  down_ = arena.Take<float>(chunk_slots_ * d.ExpertColumnsOf(0).size());
  out_ = arena.Take<float>(n * d.ExpertColumnsOf(0).size());
  if (d.dp * d.tp > 1) {
    packed_ = arena.Take<float>(n * d.ExpertColumnsOf(0).size());
    received_ = arena.Take<float>(d.ep * d.max_tokens * d.SliceOf(0).size());
  }
  y_ = arena.Take<float>(d.max_tokens * d.SliceOf(0).size());
  if (d.shared > 0) shared_partial_ = arena.Take<float>(d.max_tokens * d.hidden);
}

absl::Status MoeBlock::Run(int64_t layer, const PlainTensor& norm, const MoeWeights& w,
                           const Batch& batch, float* h) {
  const Dims& d = dims_;
  const int64_t t = batch.tokens;
  RETURN_IF_ERROR(Normalise(d, backend_, t, d.hidden, h, d.hidden, norm, d.eps, x_, d.hidden));
  RETURN_IF_ERROR(Route(layer, w, batch, h));
  ASSIGN_OR_RETURN(const Tokens tokens, Dispatch(layer, batch));
  RETURN_IF_ERROR(RunExperts(layer, w, tokens));
  RETURN_IF_ERROR(ReduceExperts(layer, batch));
  if (d.shared > 0) {
    // y += tree over tp of the shared expert's partials
    ASSIGN_OR_RETURN(const Operand x,
                     MakeOperand(d, backend_, t, d.hidden, x_, d.hidden,
                                 Fp8First(w.shared.gate, w.shared.up), 0, x_quant_));
    RETURN_IF_ERROR(shared_.Run(w.shared, t, x, shared_partial_));
    RETURN_IF_ERROR(slices_->ReduceToSlice(v1::COLLECTIVE_TAG_SHARED_PARTIAL, layer, t,
                                           shared_partial_, y_, /*accumulate=*/true));
  }
  return slices_->AddSlices(v1::COLLECTIVE_TAG_MOE_GATHER, layer, t, y_, h);
}

absl::Status MoeBlock::Route(int64_t layer, const MoeWeights& w, const Batch& batch, float* h) {
  const Dims& d = dims_;
  const int64_t t = batch.tokens;
  // logits = W_r x                                                     [t, experts]
  const Operand x{.a = x_, .type = d.type, .lda = d.hidden, .k = d.hidden};
  RETURN_IF_ERROR(Multiply(backend_, t, x, w.router, logits_, d.experts));
  RETURN_IF_ERROR(backend_->Route({.tokens = t,
                                   .experts = d.experts,
                                   .groups = d.expert_groups,
                                   .topk_groups = d.top_groups,
                                   .top_k = d.top_k,
                                   .normalise = d.normalise_routes,
                                   .scale = d.route_scale,
                                   .logits = logits_,
                                   .bias = w.router_bias.empty() ? nullptr : w.router_bias.data(),
                                   .ids = ids_,
                                   .weights = weights_}));
  // A row that has no route (NaN logits) is lost, and stays so up to the sampler, which reports
  // it; it takes any experts, as its rows touch no others.
  for (int64_t i = 0; i < t; ++i) {
    if (ids_[i * d.top_k] >= 0) continue;
    std::iota(ids_ + i * d.top_k, ids_ + (i + 1) * d.top_k, 0);
    std::fill_n(weights_ + i * d.top_k, d.top_k, 0.0f);
    std::fill_n(h + i * d.hidden, d.hidden, std::numeric_limits<float>::quiet_NaN());
  }
  if (observer_ != nullptr && t > 0) observer_->OnRoutes(layer, batch, d.top_k, ids_, weights_);
  return absl::OkStatus();
}

// Sends [x, ids, weights] of every group's rows to all ranks. The ranks of a DP group hold the same
// rows: TP rank r contributes the r-th part of them, so that rank order is token order.
absl::StatusOr<MoeBlock::Tokens> MoeBlock::Dispatch(int64_t layer, const Batch& batch) {
  const Dims& d = dims_;
  if (d.dp == 1) {
    return Tokens{
        .count = batch.tokens, .x = x_, .ldx = d.hidden, .ids = ids_, .weights = weights_};
  }
  const int64_t x_bytes = DispatchXBytes(d);
  const int64_t k_bytes = d.top_k * 4;
  std::vector<int64_t> bytes;  // [world]
  int64_t n = 0, own_begin = 0;
  for (int group = 0; group < d.dp; ++group) {
    if (group == d.at.dp) own_begin = n;
    n += batch.group_tokens[group];
    for (int t = 0; t < d.tp; ++t) {
      bytes.push_back(EvenPart(batch.group_tokens[group], d.tp, t).size() * dispatch_bytes_);
    }
  }
  const Range mine = EvenPart(batch.tokens, d.tp, d.at.tp);
  std::byte* own = dispatched_ + (own_begin + mine.begin) * dispatch_bytes_;
  for (int64_t i = mine.begin; i < mine.end; ++i) {
    std::byte* row = own + (i - mine.begin) * dispatch_bytes_;
    std::memcpy(row, static_cast<std::byte*>(x_) + i * d.hidden * SizeOf(d.type),
                d.hidden * SizeOf(d.type));
    std::memcpy(row + x_bytes, ids_ + i * d.top_k, k_bytes);
    std::memcpy(row + x_bytes + k_bytes, weights_ + i * d.top_k, k_bytes);
  }
  RETURN_IF_ERROR(exchange_->AllGather(Domain::kWorld, v1::COLLECTIVE_TAG_MOE_DISPATCH, layer,
                                       {own, static_cast<size_t>(mine.size() * dispatch_bytes_)},
                                       bytes,
                                       {dispatched_, static_cast<size_t>(n * dispatch_bytes_)}));
  for (int64_t i = 0; i < n; ++i) {
    const std::byte* row = dispatched_ + i * dispatch_bytes_;
    std::memcpy(ids_ + i * d.top_k, row + x_bytes, k_bytes);
    std::memcpy(weights_ + i * d.top_k, row + x_bytes + k_bytes, k_bytes);
  }
  return Tokens{.count = n,
                .x = dispatched_,
                .ldx = dispatch_bytes_ / SizeOf(d.type),
                .ids = ids_,
                .weights = weights_};
}

// A chunk's slots are grouped by expert already: one addition for each.
void MoeBlock::CountLoad(int64_t layer) {
  const size_t experts = dims_.local_experts.size();
  uint64_t* const load = load_.data() + layer * experts;
  for (const ExpertChunk& chunk : work_.chunks()) {
    for (size_t e = 0; e < experts; ++e) load[e] += chunk.offsets[e + 1] - chunk.offsets[e];
  }
}

// out = sum over this rank's experts of weight * W_down (silu(W_gate x) * (W_up x)),
// this rank's columns                                                  [n, expert_columns]
absl::Status MoeBlock::RunExperts(int64_t layer, const MoeWeights& w, const Tokens& tokens) {
  const Dims& d = dims_;
  work_.Assign(tokens.count, d.top_k, tokens.ids, chunk_slots_, slot_of_, row_index_);
  CountLoad(layer);
  Operand x{.a = tokens.x, .type = d.type, .lda = tokens.ldx, .k = d.hidden};
  if (!w.gate.empty()) {
    ASSIGN_OR_RETURN(
        x, MakeOperand(d, backend_, tokens.count, d.hidden, tokens.x, tokens.ldx,
                       Fp8First(w.gate[0], w.up[0]), 0, d.dp > 1 ? all_quant_ : x_quant_));
  }
  if (d.moe_tp > 1) {
    const int64_t row_bytes = d.expert_width.size() * SizeOf(d.type);
    for (const ExpertChunk& chunk : work_.chunks()) {
      RETURN_IF_ERROR(
          GateUp(w, chunk, x, static_cast<std::byte*>(act_mine_) + chunk.slot0 * row_bytes));
    }
    RETURN_IF_ERROR(GatherActivations(layer));
  }
  for (const ExpertChunk& chunk : work_.chunks()) {
    if (d.moe_tp > 1) {
      AssembleActivations(chunk);
    } else {
      RETURN_IF_ERROR(GateUp(w, chunk, x, act_));
    }
    RETURN_IF_ERROR(DownAndCombine(w, chunk, tokens));
  }
  return absl::OkStatus();
}

// act = silu(W_gate x) * (W_up x)                                      [slots, expert_width]
absl::Status MoeBlock::GateUp(const MoeWeights& w, const ExpertChunk& chunk, const Operand& x,
                              void* act) {
  const int64_t width = dims_.expert_width.size();
  const int32_t* rows = row_index_ + chunk.slot0;
  RETURN_IF_ERROR(GroupedMultiply(backend_, chunk, x, rows, w.gate, gate_, width));
  RETURN_IF_ERROR(GroupedMultiply(backend_, chunk, x, rows, w.up, up_, width));
  return backend_->SwiGlu({.rows = chunk.slots,
                           .width = width,
                           .gate = gate_,
                           .up = up_,
                           .ld = width,
                           .out = act,
                           .out_type = dims_.type,
                           .ldo = width});
}

// All ranks of a moe_tp group hold slices of the same experts and so have the same slots.
absl::Status MoeBlock::GatherActivations(int64_t layer) {
  const Dims& d = dims_;
  const int64_t slots = work_.total_slots();
  std::vector<int64_t> bytes(d.moe_tp);
  int64_t total = 0;
  for (int m = 0; m < d.moe_tp; ++m) {
    bytes[m] = slots * d.ExpertWidthOf(m).size() * SizeOf(d.type);
    total += bytes[m];
  }
  return exchange_->AllGather(
      Domain::kMoeTp, v1::COLLECTIVE_TAG_MOE_ACTIVATION, layer,
      {static_cast<const std::byte*>(act_mine_), static_cast<size_t>(bytes[d.at.moe_tp])}, bytes,
      {act_all_, static_cast<size_t>(total)});
}

// A chunk's rows, from slices by rank to whole rows.                   [slots, moe_intermediate]
void MoeBlock::AssembleActivations(const ExpertChunk& chunk) {
  const Dims& d = dims_;
  const int64_t row = d.moe_intermediate * SizeOf(d.type);
  const std::byte* from = act_all_;
  for (int m = 0; m < d.moe_tp; ++m) {
    const Range width = d.ExpertWidthOf(m);
    const int64_t bytes = width.size() * SizeOf(d.type);
    std::byte* to = static_cast<std::byte*>(act_) + width.begin * SizeOf(d.type);
    for (int64_t s = 0; s < chunk.slots; ++s) {
      std::memcpy(to + s * row, from + (chunk.slot0 + s) * bytes, bytes);
    }
    from += work_.total_slots() * bytes;
  }
}

absl::Status MoeBlock::DownAndCombine(const MoeWeights& w, const ExpertChunk& chunk,
                                      const Tokens& tokens) {
  const Dims& d = dims_;
  const int64_t columns = d.expert_columns.size();
  if (chunk.slots > 0) {
    // down = W_down act                                                [slots, expert_columns]
    ASSIGN_OR_RETURN(const Operand act,
                     MakeOperand(d, backend_, chunk.slots, d.moe_intermediate, act_,
                                 d.moe_intermediate, w.down[0], 0, act_quant_));
    RETURN_IF_ERROR(GroupedMultiply(backend_, chunk, act, nullptr, w.down, down_, columns));
  }
  const int64_t first = chunk.token0 * d.top_k;
  return backend_->ExpertCombine({.tokens = chunk.tokens,
                                  .top_k = d.top_k,
                                  .experts = d.experts,
                                  .width = columns,
                                  .ids = tokens.ids + first,
                                  .weights = tokens.weights + first,
                                  .slots = slot_of_ + first,
                                  .rows = down_,
                                  .ld = columns,
                                  .out = out_ + chunk.token0 * columns,
                                  .ldo = columns});
}

// y = tree over EP ranks of their sums, for this rank's tokens and slice  [t, slice]
//
// Rank (e, m) holds columns m of the tokens of all groups; the owner of slice t of group g wants
// those of g's tokens where m and t overlap.
absl::Status MoeBlock::ReduceExperts(int64_t layer, const Batch& batch) {
  const Dims& d = dims_;
  const int64_t t = batch.tokens;
  const int64_t columns = d.expert_columns.size();
  const int world = d.dp * d.tp;
  std::vector<const float*> from(world);  // partials by world rank = (e, m)
  if (world == 1) {
    from[0] = out_;
  } else {
    std::vector<absl::Span<const std::byte>> send(world);
    std::vector<absl::Span<std::byte>> recv(world);
    float* pack = packed_;
    const float* rows = out_;
    for (int owner = 0; owner < world; ++owner) {
      const int64_t n = batch.group_tokens[owner / d.tp];
      const Range want = Intersect(d.expert_columns, d.SliceOf(owner % d.tp));
      CopyMatrix(n, want.size(), rows + want.begin - d.expert_columns.begin, columns, pack,
                 want.size());
      send[owner] = {reinterpret_cast<const std::byte*>(pack), sizeof(float) * n * want.size()};
      pack += n * want.size();
      if (owner % d.tp == d.tp - 1) rows += n * columns;
    }
    float* unpack = received_;
    for (int r = 0; r < world; ++r) {
      const int64_t width = Intersect(d.ExpertColumnsOf(r % d.moe_tp), d.slice).size();
      from[r] = unpack;
      recv[r] = {reinterpret_cast<std::byte*>(unpack), sizeof(float) * t * width};
      unpack += t * width;
    }
    RETURN_IF_ERROR(
        exchange_->AllToAll(Domain::kWorld, v1::COLLECTIVE_TAG_MOE_COMBINE, layer, send, recv));
  }
  std::vector<const float*> partials(d.ep);
  for (int m = 0; m < d.moe_tp; ++m) {
    const Range part = Intersect(d.ExpertColumnsOf(m), d.slice);
    if (part.size() == 0) continue;
    for (int e = 0; e < d.ep; ++e) partials[e] = from[e * d.moe_tp + m];
    RETURN_IF_ERROR(backend_->TreeAdd({.rows = t,
                                       .cols = part.size(),
                                       .partials = partials,
                                       .ldp = part.size(),
                                       .out = y_ + part.begin - d.slice.begin,
                                       .ldo = d.slice.size()}));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
