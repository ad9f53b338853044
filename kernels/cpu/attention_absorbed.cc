#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

// Heads that share a tile of latents; halved while some thread would have nothing to do.
constexpr int64_t kMaxRows = 16;
// Positions between two looks at the block table. In BF16 their latents stay in the first-level
// cache from one block of scores to the next.
constexpr int64_t kTilePositions = 32;

int64_t PaddedContext(int64_t context) { return RoundUp(context, kTilePositions); }

int64_t HeadRows(const AttentionAbsorbedArgs& args, int threads) {
  int64_t rows = Smaller(kMaxRows, RoundUp(args.heads, 4));
  while (rows > 4 && args.tokens * ((args.heads + rows - 1) / rows) < threads) {
    rows = RoundUp(rows / 2, 4);
  }
  return rows;
}

// The latents of positions [tile0, tile0 + kTilePositions); behind the last visible one, that
// again.
template <typename T>
struct Tile {
  Tile(const LatentCache& cache, const int32_t* table, int64_t tile0, int64_t visible)
      : count(Smaller(kTilePositions, visible - tile0)) {
    for (int64_t j = 0; j < kTilePositions; ++j) {
      rows[j] = j < count ? CacheRow<T>(cache, table, tile0 + j) : rows[count - 1];
    }
  }
  const int64_t count;
  const T* rows[kTilePositions];
};

// One token, one block of heads. A latent is widened in registers, for R heads at a time.
template <int R, typename T>
void Attend(const AttentionAbsorbedArgs& args, int64_t token, int64_t head0, RowBlock& b) {
  constexpr int kP = 16 / R;
  const int64_t width = args.lora + args.rope;
  const int64_t visible = args.positions[token] + int64_t{1};
  const int64_t heads = Smaller(b.rows, args.heads - head0);
  const T* q = static_cast<const T*>(args.q) + token * args.ldq + head0 * width;
  for (int64_t r = 0; r < b.rows; ++r) {
    float* row = b.queries + r * b.key_width;
    b.visible[r] = r < heads ? visible : 0;
    if (r < heads) Widen(q + r * width, width, row);
    FillZero(r < heads ? row + width : row, row + b.key_width);
  }
  const int32_t* table = args.block_tables[token];
  const int64_t score_blocks = b.rows / R * (kTilePositions / kP);
  for (int64_t tile0 = 0; tile0 < visible; tile0 += kTilePositions) {
    const Tile<T> tile(args.cache, table, tile0, visible);
    // Rows of the next tile are asked for between the scores of this one. All at once they would
    // wait for each other: a core has few reads open.
    int64_t next = tile0 + kTilePositions;
    ScoreTile<R, kP>(b, tile0, tile.count, tile.rows, width, args.scale, [&] {
      for (int64_t i = 0; i < kTilePositions; i += score_blocks, ++next) {
        PrefetchRow<T>(args.cache, table, next, visible, width);
      }
    });
  }
  SoftmaxRows(b);
  for (int64_t tile0 = 0; tile0 < visible; tile0 += kTilePositions) {
    const Tile<T> tile(args.cache, table, tile0, visible);
    // By now in the second-level cache, and there is no order in which the hardware would foresee
    // it.
    for (int64_t j = 0; j < kTilePositions; ++j) {
      PrefetchRow<T>(args.cache, table, tile0 + kTilePositions + j, visible, args.lora);
    }
    AddValueTile<R>(b, tile0, tile.count, tile.rows, args.lora);
  }
  T* out = static_cast<T*>(args.out) + token * args.ldo + head0 * args.lora;
  for (int64_t r = 0; r < heads; ++r) FinishRow(b, r, args.lora, out + r * args.lora);
}

template <typename T>
void AttendRows(const AttentionAbsorbedArgs& args, int64_t token, int64_t head0, RowBlock& b) {
  if constexpr (kWholeBlocks) {
    if (b.rows % 8 == 0 && args.heads - head0 > 4) return Attend<8, T>(args, token, head0, b);
  }
  Attend<4, T>(args, token, head0, b);
}

template <typename T>
void Run(const AttentionAbsorbedArgs& args, ThreadPool& pool) {
  int64_t context = 0;
  for (int64_t t = 0; t < args.tokens; ++t) {
    if (args.positions[t] >= context) context = args.positions[t] + int64_t{1};
  }
  const int64_t ld = PaddedContext(context);
  const int64_t rows = HeadRows(args, pool.threads());
  const int64_t blocks = (args.heads + rows - 1) / rows;
  const int64_t key_width = args.lora + args.rope;
  pool.ParallelFor(args.tokens * blocks, 1, [&](int64_t begin, int64_t end, int thread) {
    RowBlock b = CarveRowBlock(
        pool.ThreadScratch(thread, RowBlockBytes(rows, key_width, args.lora)), rows, key_width,
        args.lora, static_cast<float*>(args.scratch) + thread * rows * ld, ld);
    for (int64_t item = begin; item < end; ++item) {
      AttendRows<T>(args, item / blocks, item % blocks * rows, b);
    }
  });
}

}  // namespace

void AttentionAbsorbed(const AttentionAbsorbedArgs& args, ThreadPool& pool) {
  args.cache.type == DType::kF32 ? Run<float>(args, pool) : Run<BF16>(args, pool);
}

int64_t AttentionAbsorbedScratch(int64_t max_context, int threads) {
  return threads * kMaxRows * PaddedContext(max_context) * static_cast<int64_t>(sizeof(float));
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
