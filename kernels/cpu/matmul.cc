#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/matmul_core.h"

namespace whalepod::cpu::WHALEPOD_ISA {
namespace {

// Multiply-adds worth handing to another thread.
constexpr int64_t kGrainWork = 1 << 17;
// Panels of one matrix that a piece should have: each widens the activations for itself, which
// costs as much as an eighth of a panel's products, more with many rows. Where there are fewer than
// two such pieces for a thread, each thread has one.
constexpr int64_t kGrainPanels = 8;

ProductArgs BatchEntry(const MatMulArgs& args, int64_t b) {
  ProductArgs product;
  product.w = &args.w[b];
  product.rows = args.m;
  product.a = static_cast<const uint8_t*>(args.a) + b * args.a_batch_stride * SizeOf(args.a_type);
  product.a_type = args.a_type;
  product.lda = args.lda;
  product.c = static_cast<uint8_t*>(args.c) + b * args.c_batch_stride * SizeOf(args.c_type);
  product.c_type = args.c_type;
  product.ldc = args.ldc;
  product.a_scales = args.a_scales;
  product.lda_scales = args.lda_scales;
  product.segment_k = args.segment_k;
  return product;
}

}  // namespace

void MatMul(const MatMulArgs& args, ThreadPool& pool) {
  const int64_t panels = CeilDiv(args.w[0].n, kPanelRows);
  const int64_t batch = static_cast<int64_t>(args.w.size());
  const int64_t panels_of_work = CeilDiv(kGrainWork, args.m * args.w[0].k * kPanelRows);
  const int64_t a_thread = CeilDiv(batch * panels, pool.threads());
  const int64_t least = MinOf(panels, a_thread < 2 * kGrainPanels ? a_thread : kGrainPanels);
  const int64_t grain = MaxOf(panels_of_work, least);
  pool.ParallelFor(batch * panels, grain, [&](int64_t begin, int64_t end, int thread) {
    while (begin < end) {
      const int64_t b = begin / panels;
      const int64_t stop = MinOf(end, (b + 1) * panels);
      const ProductArgs entry = BatchEntry(args, b);
      RunProduct(entry, begin - b * panels, stop - b * panels, pool, thread);
      begin = stop;
    }
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
