#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

template <typename Out>
void Rows(const CastArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x + row * args.ldx;
      Out* out = static_cast<Out*>(args.out) + row * args.ldo;
      int64_t i = 0;
      for (; i + 16 <= args.cols; i += 16) Store(out + i, Load(x + i));
      if (i < args.cols) {
        const int rest = static_cast<int>(args.cols - i);
        StorePartial(out + i, LoadPartial(x + i, rest), rest);
      }
    }
  });
}

}  // namespace

void Cast(const CastArgs& args, ThreadPool& pool) {
  args.out_type == DType::kF32 ? Rows<float>(args, pool) : Rows<BF16>(args, pool);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
