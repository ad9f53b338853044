#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/matmul_core.h"

namespace whalepod::cpu::WHALEPOD_ISA {
namespace {

// What a panel costs beyond its rows (reading its weights), in rows.
constexpr int64_t kPanelCost = 6;

// Work of one panel of expert `g`.
int64_t PanelCost(const GroupedMatMulArgs& args, int64_t g) {
  const int64_t rows = args.offsets[g + 1] - args.offsets[g];
  return rows == 0 ? 0 : rows + kPanelCost;
}

ProductArgs Expert(const GroupedMatMulArgs& args, int64_t g) {
  const int64_t slot = args.offsets[g];
  ProductArgs product;
  product.w = &args.w[g];
  product.rows = args.offsets[g + 1] - slot;
  product.a = args.a;
  product.a_type = args.a_type;
  product.lda = args.lda;
  product.a_scales = args.a_scales;
  product.lda_scales = args.lda_scales;
  if (args.row_index != nullptr) {
    product.row_index = args.row_index + slot;
  } else {
    product.a = static_cast<const uint8_t*>(args.a) + slot * args.lda * SizeOf(args.a_type);
    if (args.a_scales != nullptr) product.a_scales += slot * args.lda_scales;
  }
  product.c = static_cast<uint8_t*>(args.c) + slot * args.ldc * SizeOf(args.c_type);
  product.c_type = args.c_type;
  product.ldc = args.ldc;
  return product;
}

}  // namespace

void GroupedMatMul(const GroupedMatMulArgs& args, ThreadPool& pool) {
  const int64_t experts = static_cast<int64_t>(args.w.size());
  const int64_t panels = CeilDiv(args.w[0].n, kPanelRows);
  int64_t total = 0;
  for (int64_t g = 0; g < experts; ++g) total += panels * PanelCost(args, g);
  const int64_t parts = pool.threads() * ThreadPool::kPiecesPerThread;
  // Part p does the panels whose cost begins in [total * p / parts, total * (p + 1) / parts).
  pool.ParallelFor(parts, 1, [&](int64_t begin, int64_t end, int thread) {
    const int64_t lo = total * begin / parts;
    const int64_t hi = total * end / parts;
    int64_t before = 0;
    for (int64_t g = 0; g < experts; ++g) {
      const int64_t cost = PanelCost(args, g);
      if (cost == 0) continue;
      const int64_t panel0 = lo <= before ? 0 : MinOf(CeilDiv(lo - before, cost), panels);
      const int64_t panel1 = hi <= before ? 0 : MinOf(CeilDiv(hi - before, cost), panels);
      before += panels * cost;
      if (panel0 >= panel1) continue;
      const ProductArgs expert = Expert(args, g);
      RunProduct(expert, panel0, panel1, pool, thread);
    }
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
