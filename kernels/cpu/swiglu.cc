#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/math.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

template <typename Out>
void Rows(const SwiGluArgs& args, ThreadPool& pool) {
  // Cut in pieces of rows, so that one wide row still occupies all threads.
  constexpr int64_t kPiece = 256;
  const int64_t pieces = (args.width + kPiece - 1) / kPiece;
  pool.ParallelFor(args.rows * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item / pieces;
      const int64_t first = item % pieces * kPiece;
      const int64_t last = first + kPiece < args.width ? first + kPiece : args.width;
      const float* gate = args.gate + row * args.ld;
      const float* up = args.up + row * args.ld;
      Out* out = static_cast<Out*>(args.out) + row * args.ldo;
      int64_t i = first;
      for (; i + 16 <= last; i += 16) Store(out + i, Silu(Load(gate + i)) * Load(up + i));
      if (i < last) {
        const int rest = static_cast<int>(last - i);
        StorePartial(out + i, Silu(LoadPartial(gate + i, rest)) * LoadPartial(up + i, rest), rest);
      }
    }
  });
}

}  // namespace

void SwiGlu(const SwiGluArgs& args, ThreadPool& pool) {
  args.out_type == DType::kF32 ? Rows<float>(args, pool) : Rows<BF16>(args, pool);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
