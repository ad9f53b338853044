#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

WHALEPOD_INLINE F32x16 LoadRow(const float* p) { return Load(p); }
WHALEPOD_INLINE F32x16 LoadRow(const BF16* p) { return Load(p); }
WHALEPOD_INLINE F32x16 LoadRow(const uint16_t* p) { return LoadF16(p); }

template <typename T>
void CopyRow(const T* row, int64_t hidden, float* out) {
  int64_t i = 0;
  for (; i + 16 <= hidden; i += 16) Store(out + i, LoadRow(row + i));
  if (i < hidden) {
    T last[16] = {};
    for (int64_t j = i; j < hidden; ++j) last[j - i] = row[j];
    StorePartial(out + i, LoadRow(last), static_cast<int>(hidden - i));
  }
}

}  // namespace

void Embed(const EmbedArgs& args, ThreadPool& pool) {
  pool.ParallelFor(args.tokens, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = args.ids[t] - args.vocab0;
      if (row < 0 || row >= args.rows) continue;
      float* out = args.out + t * args.hidden;
      const int64_t offset = row * args.hidden;
      switch (args.table_type) {
        case DType::kF32:
          CopyRow(static_cast<const float*>(args.table) + offset, args.hidden, out);
          break;
        case DType::kBF16:
          CopyRow(static_cast<const BF16*>(args.table) + offset, args.hidden, out);
          break;
        case DType::kF16:
          CopyRow(static_cast<const uint16_t*>(args.table) + offset, args.hidden, out);
          break;
        case DType::kF8E4M3:  // refused by validation
          break;
      }
    }
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
