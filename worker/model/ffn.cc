#include "worker/model/ffn.h"

#include "base/status.h"

namespace whalepod {

SwiGluFfn::SwiGluFfn(const Dims& d, Backend* backend, int64_t width, int64_t segment,
                     ActivationArena& arena)
    : dims_(d), backend_(backend), width_(width), segment_(segment) {
  if (width == 0) return;
  gate_ = arena.Take<float>(d.max_tokens * width);
  up_ = arena.Take<float>(d.max_tokens * width);
  act_ = arena.Take(d.max_tokens * width * SizeOf(d.type));
  act_quant_ = QuantBuffer(d, d.max_tokens, width, width / segment, arena);
}

absl::Status SwiGluFfn::Run(const FfnWeights& w, int64_t rows, const Operand& x, float* partial) {
  RETURN_IF_ERROR(Multiply(backend_, rows, x, w.gate, gate_, width_));
  RETURN_IF_ERROR(Multiply(backend_, rows, x, w.up, up_, width_));
  RETURN_IF_ERROR(backend_->SwiGlu({.rows = rows,
                                    .width = width_,
                                    .gate = gate_,
                                    .up = up_,
                                    .ld = width_,
                                    .out = act_,
                                    .out_type = dims_.type,
                                    .ldo = width_}));
  ASSIGN_OR_RETURN(const Operand act, MakeOperand(dims_, backend_, rows, width_, act_, width_,
                                                  w.down, segment_, act_quant_));
  return Multiply(backend_, rows, act, w.down, partial, dims_.hidden, segment_);
}

DenseFfnBlock::DenseFfnBlock(const Dims& d, Backend* backend, SliceExchange* slices,
                             ActivationArena& arena)
    : dims_(d),
      backend_(backend),
      slices_(slices),
      x_(arena.Take(d.max_tokens * d.hidden * SizeOf(d.type))),
      x_quant_(d, d.max_tokens, d.hidden, 1, arena),
      ffn_(d, backend, d.intermediate, d.dense_segment, arena),
      partial_(arena.Take<float>(d.max_tokens * d.hidden)) {}

absl::Status DenseFfnBlock::Run(int64_t layer, const PlainTensor& norm, const FfnWeights& w,
                                int64_t rows, float* h) {
  const Dims& d = dims_;
  RETURN_IF_ERROR(Normalise(d, backend_, rows, d.hidden, h, d.hidden, norm, d.eps, x_, d.hidden));
  ASSIGN_OR_RETURN(const Operand x, MakeOperand(d, backend_, rows, d.hidden, x_, d.hidden,
                                                Fp8First(w.gate, w.up), 0, x_quant_));
  RETURN_IF_ERROR(ffn_.Run(w, rows, x, partial_));
  return slices_->AddPartials(v1::COLLECTIVE_TAG_FFN_PARTIAL, v1::COLLECTIVE_TAG_FFN_GATHER, layer,
                              rows, partial_, h);
}

}  // namespace whalepod
