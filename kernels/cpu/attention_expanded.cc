#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/simd.h"

namespace whalepod::cpu::WHALEPOD_ISA {

namespace {

// Queries that share a tile of keys. Bounds the scores held by each thread.
constexpr int64_t kQueryRows = 32;
// Heads whose keys and values are in memory at once; fewer if there are fewer threads.
constexpr int64_t kHeads = 4;
// Positions whose keys or values are held as F32 at once: what the first-level cache takes.
constexpr int64_t kTilePositions = 16;
// Positions expanded by one product.
constexpr int64_t kExpandRows = 1024;

int64_t HeadsAtOnce(int threads) { return Smaller(kHeads, threads); }
int64_t QueryRows(int64_t tokens) { return Smaller(kQueryRows, RoundUp(tokens, 4)); }
int64_t PaddedContext(int64_t context) { return RoundUp(context, kTilePositions); }

// The scratch: keys and values of a few heads, then each thread's scores.
struct Expanded {
  int64_t context = 0;
  char* keys = nullptr;     // [heads at once, context, nope], activation type
  char* values = nullptr;   // [heads at once, context, v]
  float* scores = nullptr;  // [threads, query rows, padded context]
};

Expanded CarveScratch(const AttentionExpandedArgs& args, int threads) {
  const int64_t size = SizeOf(args.cache.type);
  Expanded x;
  x.context = args.pos0 + args.tokens;
  const int64_t heads = HeadsAtOnce(threads);
  x.keys = static_cast<char*>(args.scratch);
  x.values = x.keys + RoundUp(heads * x.context * args.nope * size, 64);
  x.scores = reinterpret_cast<float*>(x.values + RoundUp(heads * x.context * args.v * size, 64));
  return x;
}

// Positions from `p` on that lie one after the other in the cache.
int64_t RunLength(const AttentionExpandedArgs& args, int64_t p, int64_t context) {
  const LatentCache& cache = args.cache;
  int64_t block = p / cache.block_tokens;
  int64_t end = (block + 1) * cache.block_tokens;
  const bool dense = cache.block_stride == cache.block_tokens * cache.width;
  while (dense && end < context && end - p < kExpandRows &&
         args.block_table[block + 1] == args.block_table[block] + 1) {
    ++block;
    end += cache.block_tokens;
  }
  return Smaller(Smaller(end, context) - p, kExpandRows);
}

// Fills out[head][position] = up[head] * latent[position] for `heads` heads from `head0`.
void Expand(const AttentionExpandedArgs& args, const PackedMatrix* up, int64_t heads, int64_t width,
            int64_t context, void* out, ThreadPool& pool) {
  const LatentCache& cache = args.cache;
  const int64_t size = SizeOf(cache.type);
  for (int64_t p = 0; p < context;) {
    const int64_t element = args.block_table[p / cache.block_tokens] * cache.block_stride +
                            p % cache.block_tokens * cache.width;
    MatMulArgs product;
    product.m = RunLength(args, p, context);
    product.a = static_cast<const char*>(cache.base) + element * size;
    product.a_type = cache.type;
    product.lda = cache.width;
    product.w = absl::Span<const PackedMatrix>(up, static_cast<size_t>(heads));
    product.c = static_cast<char*>(out) + p * width * size;
    product.c_type = cache.type;
    product.ldc = width;
    product.c_batch_stride = context * width;
    MatMul(product, pool);
    p += product.m;
  }
}

template <typename T>
void LoadQueries(const AttentionExpandedArgs& args, int64_t head, int64_t token0, RowBlock& b) {
  const int64_t width = args.nope + args.rope;
  for (int64_t r = 0; r < b.rows; ++r) {
    const int64_t token = token0 + r;
    float* row = b.queries + r * b.key_width;
    b.visible[r] = token < args.tokens ? args.pos0 + token + 1 : 0;
    if (token < args.tokens) {
      Widen(static_cast<const T*>(args.q) + token * args.ldq + head * width, width, row);
      FillZero(row + width, row + b.key_width);
    } else {
      FillZero(row, row + b.key_width);
    }
  }
}

// Keys or values of a tile as F32: its rows.
struct Tile {
  Tile(float* memory, int64_t width) {
    for (int64_t j = 0; j < kTilePositions; ++j) rows[j] = memory + j * RoundUp(width, 16);
  }
  static int64_t Bytes(int64_t width) {
    return kTilePositions * RoundUp(width, 16) * static_cast<int64_t>(sizeof(float));
  }
  float* rows[kTilePositions];
};

template <typename T>
void LoadKeyTile(const AttentionExpandedArgs& args, const T* keys, int64_t tile0, int64_t visible,
                 const Tile& tile) {
  const int64_t width = args.nope + args.rope;
  for (int64_t j = 0; j < kTilePositions; ++j) {
    float* row = tile.rows[j];
    const int64_t p = tile0 + j;
    if (p >= visible) {
      FillZero(row, row + width);
      continue;
    }
    Widen(keys + p * args.nope, args.nope, row);
    Widen(CacheRow<T>(args.cache, args.block_table, p) + args.lora, args.rope, row + args.nope);
  }
}

// One head, one block of queries.
template <typename T>
void Attend(const AttentionExpandedArgs& args, int64_t head, int64_t token0, const T* keys,
            const T* values, float* tile_memory, RowBlock& b) {
  LoadQueries<T>(args, head, token0, b);
  const int64_t last = Smaller(token0 + b.rows, args.tokens);
  const int64_t visible = args.pos0 + last;
  const Tile key_tile(tile_memory, args.nope + args.rope);
  for (int64_t tile0 = 0; tile0 < visible; tile0 += kTilePositions) {
    LoadKeyTile<T>(args, keys, tile0, visible, key_tile);
    ScoreTile<4, 4>(b, tile0, kTilePositions, key_tile.rows, args.nope + args.rope, args.scale,
                    [] {});
  }
  SoftmaxRows(b);
  const Tile value_tile(tile_memory, args.v);
  for (int64_t tile0 = 0; tile0 < visible; tile0 += kTilePositions) {
    const int64_t count = Smaller(kTilePositions, visible - tile0);
    for (int64_t j = 0; j < count; ++j) {
      Widen(values + (tile0 + j) * args.v, args.v, value_tile.rows[j]);
    }
    AddValueTile<4>(b, tile0, count, value_tile.rows, args.v);
  }
  for (int64_t token = token0; token < last; ++token) {
    FinishRow(b, token - token0, args.v,
              static_cast<T*>(args.out) + token * args.ldo + head * args.v);
  }
}

template <typename T>
void Run(const AttentionExpandedArgs& args, ThreadPool& pool) {
  const Expanded x = CarveScratch(args, pool.threads());
  const int64_t heads_at_once = HeadsAtOnce(pool.threads());
  const int64_t rows = QueryRows(args.tokens);
  const int64_t blocks = (args.tokens + rows - 1) / rows;
  const int64_t ld = PaddedContext(x.context);
  const int64_t key_width = args.nope + args.rope;
  const int64_t block_bytes = RowBlockBytes(rows, key_width, args.v);
  const int64_t tile_bytes = Tile::Bytes(key_width > args.v ? key_width : args.v);
  for (int64_t head0 = 0; head0 < args.heads; head0 += heads_at_once) {
    const int64_t heads = Smaller(heads_at_once, args.heads - head0);
    Expand(args, args.k_up.data() + head0, heads, args.nope, x.context, x.keys, pool);
    Expand(args, args.v_up.data() + head0, heads, args.v, x.context, x.values, pool);
    pool.ParallelFor(heads * blocks, 1, [&](int64_t begin, int64_t end, int thread) {
      char* memory = static_cast<char*>(pool.ThreadScratch(thread, block_bytes + tile_bytes));
      auto* tile = reinterpret_cast<float*>(memory + block_bytes);
      RowBlock b =
          CarveRowBlock(memory, rows, key_width, args.v, x.scores + thread * rows * ld, ld);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t head = item / blocks;
        // Later blocks see more: taking them from both ends evens out what a thread gets.
        const int64_t i = item % blocks;
        const int64_t block = i % 2 == 0 ? i / 2 : blocks - 1 - i / 2;
        Attend<T>(args, head0 + head, block * rows,
                  reinterpret_cast<const T*>(x.keys) + head * x.context * args.nope,
                  reinterpret_cast<const T*>(x.values) + head * x.context * args.v, tile, b);
      }
    });
  }
}

}  // namespace

void AttentionExpanded(const AttentionExpandedArgs& args, ThreadPool& pool) {
  args.cache.type == DType::kF32 ? Run<float>(args, pool) : Run<BF16>(args, pool);
}

int64_t AttentionExpandedScratch(int64_t max_context, int64_t max_tokens, int64_t nope, int64_t v,
                                 DType type, int threads) {
  const int64_t heads = HeadsAtOnce(threads);
  return RoundUp(heads * max_context * nope * SizeOf(type), 64) +
         RoundUp(heads * max_context * v * SizeOf(type), 64) +
         threads * QueryRows(max_tokens) * PaddedContext(max_context) *
             static_cast<int64_t>(sizeof(float));
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
