#include "kernels/cpu/isa_ops.h"

namespace whalepod::cpu::WHALEPOD_ISA {

void CacheWrite(const CacheWriteArgs& args, ThreadPool& pool) {
  const LatentCache& cache = args.cache;
  const int64_t size = SizeOf(cache.type);
  pool.ParallelFor(args.tokens, 16, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t slot = args.slots[t];
      if (slot < 0) continue;
      const int64_t element =
          slot / cache.block_tokens * cache.block_stride + slot % cache.block_tokens * cache.width;
      __builtin_memcpy(static_cast<char*>(cache.base) + element * size,
                       static_cast<const char*>(args.rows) + t * args.ld * size,
                       static_cast<size_t>(cache.width * size));
    }
  });
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
