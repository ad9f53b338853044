// What both forms of attention share: rows (queries) against tiles of positions. The order of every
// sum is in docs/numbers.md ("Other orders"); no result depends on where a tile or a block of rows
// begins. Include from kernels/cpu/<op>.cc only, as kernels/cpu/simd.h.
#pragma once

#include "kernels/cpu/math.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace whalepod::cpu::WHALEPOD_ISA {

// Rows and positions advance in blocks of 4 x 4. A path with 32 registers keeps all 16 sums in
// them; others do four passes of 2 x 2.
#if defined(WHALEPOD_ISA_AVX512)
constexpr int kScoreSide = 4;
constexpr int kValueVectors = 4;
#else
constexpr int kScoreSide = 2;
constexpr int kValueVectors = 1;
#endif

// Positions whose keys or values are held as F32 at once: what the first-level cache takes.
constexpr int kTilePositions = 16;

WHALEPOD_INLINE int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
WHALEPOD_INLINE int64_t Smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
WHALEPOD_INLINE void StoreRow(T* out, F32x16 v, int64_t left) {
  if (left >= 16) {
    Store(out, v);
  } else {
    StorePartial(out, v, static_cast<int>(left));
  }
}

// out[0..width) = x as F32.
template <typename T>
WHALEPOD_INLINE void Widen(const T* x, int64_t width, float* out) {
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) Store(out + i, Load(x + i));
  for (; i < width; ++i) out[i] = LoadScalar(x + i);
}
WHALEPOD_INLINE void FillZero(float* from, const float* to) {
  for (; from < to; ++from) *from = 0;
}

// The row of position p in a paged cache.
template <typename T>
WHALEPOD_INLINE const T* CacheRow(const LatentCache& cache, const int32_t* table, int64_t p) {
  // Positions are below 2^31, and 32 bits divide several times faster than 64.
  const auto position = static_cast<uint32_t>(p);
  const auto block_tokens = static_cast<uint32_t>(cache.block_tokens);
  return static_cast<const T*>(cache.base) + table[position / block_tokens] * cache.block_stride +
         position % block_tokens * cache.width;
}

// Asks for `width` elements of the row of position p, if it is one of `visible`.
template <typename T>
WHALEPOD_INLINE void PrefetchRow(const LatentCache& cache, const int32_t* table, int64_t p,
                                 int64_t visible, int64_t width) {
  if (p >= visible) return;
  const auto* row = reinterpret_cast<const char*>(CacheRow<T>(cache, table, p));
  const int64_t bytes = width * static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(row + i, 0, 3);
}

// One block of rows in one thread's scratch. `rows` is a multiple of 4; unused rows are zero.
struct RowBlock {
  int64_t rows = 0;
  int64_t key_width = 0;       // of a query and a key, rounded up to 16, the rest zero
  int64_t value_width = 0;     // of a value, rounded up to 16, the rest anything
  float* queries = nullptr;    // [rows, key_width]
  float* tile = nullptr;       // [kTilePositions, max of both widths]
  float* sums = nullptr;       // [rows, value_width]: weighted sums of values
  float* totals = nullptr;     // [rows]: sums of p
  int64_t* visible = nullptr;  // [rows]: positions row r sees, ascending with r; 0 for unused rows
  float* scores = nullptr;     // [rows, ld]
  int64_t ld = 0;              // positions rounded up to kTilePositions
};

WHALEPOD_INLINE int64_t RowBlockBytes(int64_t rows, int64_t key_width, int64_t value_width) {
  const int64_t keys = RoundUp(key_width, 16);
  const int64_t values = RoundUp(value_width, 16);
  const int64_t tile = kTilePositions * (keys > values ? keys : values);
  return (rows * (keys + values + 16) + tile) * static_cast<int64_t>(sizeof(float));
}

// Lays a block out in `memory` of RowBlockBytes(); scores are the caller's.
WHALEPOD_INLINE RowBlock CarveRowBlock(void* memory, int64_t rows, int64_t key_width,
                                       int64_t value_width, float* scores, int64_t ld) {
  RowBlock b;
  b.rows = rows;
  b.key_width = RoundUp(key_width, 16);
  b.value_width = RoundUp(value_width, 16);
  b.visible = static_cast<int64_t*>(memory);
  b.totals = reinterpret_cast<float*>(b.visible + rows);
  b.queries = static_cast<float*>(memory) + rows * 16;
  b.sums = b.queries + rows * b.key_width;
  b.tile = b.sums + rows * b.value_width;
  b.scores = scores;
  b.ld = ld;
  return b;
}

namespace attention_internal {

// sums[4 * r + p] = the lanes of rows r0 + r, positions p0 + p of the block and its tile of keys.
template <int side>
WHALEPOD_INLINE void ScoreLanes(const float* queries, const float* keys, int64_t width,
                                F32x16 sums[16]) {
  for (int r0 = 0; r0 < 4; r0 += side) {
    for (int p0 = 0; p0 < 4; p0 += side) {
      F32x16 sum[side][side];
      for (int r = 0; r < side; ++r) {
        for (int p = 0; p < side; ++p) sum[r][p] = Zero();
      }
      for (int64_t i = 0; i < width; i += 16) {
        F32x16 key[side];
        for (int p = 0; p < side; ++p) key[p] = Load(keys + (p0 + p) * width + i);
        for (int r = 0; r < side; ++r) {
          const F32x16 query = Load(queries + (r0 + r) * width + i);
          for (int p = 0; p < side; ++p) sum[r][p] = Fma(query, key[p], sum[r][p]);
        }
      }
      for (int r = 0; r < side; ++r) {
        for (int p = 0; p < side; ++p) sums[4 * (r0 + r) + p0 + p] = sum[r][p];
      }
    }
  }
}

// Adds p * value over positions [begin, end) of the tile to `count` rows from `row`.
template <int count, int vectors>
WHALEPOD_INLINE void AddValues(const RowBlock& b, int64_t row, int64_t tile0, int64_t begin,
                               int64_t end, int64_t column) {
  F32x16 sum[count][vectors];
  float* sums = b.sums + row * b.value_width + column;
  const float* p = b.scores + row * b.ld + tile0;
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) sum[r][v] = Load(sums + r * b.value_width + 16 * v);
  }
  for (int64_t j = begin; j < end; ++j) {
    F32x16 value[vectors];
    for (int v = 0; v < vectors; ++v) value[v] = Load(b.tile + j * b.value_width + column + 16 * v);
    for (int r = 0; r < count; ++r) {
      const F32x16 weight = Set(p[r * b.ld + j]);
      for (int v = 0; v < vectors; ++v) sum[r][v] = Fma(weight, value[v], sum[r][v]);
    }
  }
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) Store(sums + r * b.value_width + 16 * v, sum[r][v]);
  }
}

template <int count>
WHALEPOD_INLINE void AddPositions(const RowBlock& b, int64_t row, int64_t tile0, int64_t begin,
                                  int64_t end) {
  if (begin >= end) return;
  int64_t column = 0;
  for (; column + 16 * kValueVectors <= b.value_width; column += 16 * kValueVectors) {
    AddValues<count, kValueVectors>(b, row, tile0, begin, end, column);
  }
  for (; column < b.value_width; column += 16) {
    AddValues<count, 1>(b, row, tile0, begin, end, column);
  }
  const float* p = b.scores + row * b.ld + tile0;
  float total[count];
  for (int r = 0; r < count; ++r) total[r] = b.totals[row + r];
  for (int64_t j = begin; j < end; ++j) {
    for (int r = 0; r < count; ++r) total[r] += p[r * b.ld + j];
  }
  for (int r = 0; r < count; ++r) b.totals[row + r] = total[r];
}

}  // namespace attention_internal

// Scores of all rows against the tile of keys [kTilePositions, key_width] at positions tile0.. .
// Positions a row can't see get a score that nothing reads. Calls between() after each block of
// scores.
template <typename Fn>
WHALEPOD_INLINE void ScoreTile(const RowBlock& b, int64_t tile0, float scale, const Fn& between) {
  for (int64_t r = 0; r < b.rows; r += 4) {
    bool seen = false;
    for (int64_t i = r; i < r + 4; ++i) seen = seen || b.visible[i] > tile0;
    if (!seen) continue;
    for (int64_t p = 0; p < kTilePositions; p += 4) {
      F32x16 lanes[16];
      attention_internal::ScoreLanes<kScoreSide>(b.queries + r * b.key_width,
                                                 b.tile + p * b.key_width, b.key_width, lanes);
      float scores[16];
      Store(scores, ReduceTree16(lanes) * Set(scale));
      for (int i = 0; i < 4; ++i) {
        __builtin_memcpy(b.scores + (r + i) * b.ld + tile0 + p, scores + 4 * i, 4 * sizeof(float));
      }
      between();
    }
  }
}

// Turns each row's visible scores into p = exp(s - max) and clears the sums.
WHALEPOD_INLINE void SoftmaxRows(const RowBlock& b) {
  for (int64_t r = 0; r < b.rows; ++r) {
    b.totals[r] = 0;
    FillZero(b.sums + r * b.value_width, b.sums + (r + 1) * b.value_width);
    const int64_t n = b.visible[r];
    float* s = b.scores + r * b.ld;
    const F32x16 low = Set(-__builtin_inff());
    F32x16 max = low;
    for (int64_t i = 0; i < n; i += 16) {
      const F32x16 x =
          n - i >= 16 ? Load(s + i) : LoadPartialOr(s + i, static_cast<int>(n - i), low);
      max = Max(x, max);
    }
    const F32x16 highest = Set(ReduceMax(max));
    // Whole vectors: what lies behind the visible scores is inside the row and never read.
    for (int64_t i = 0; i < n; i += 16) Store(s + i, Exp(Load(s + i) - highest));
  }
}

// Adds the tile of values [kTilePositions, value_width] at positions tile0.. . Rows four at a time
// over the positions all four see, then each alone over what only it sees.
WHALEPOD_INLINE void AddValueTile(const RowBlock& b, int64_t tile0) {
  for (int64_t row = 0; row < b.rows; row += 4) {
    const int64_t shared = b.visible[row] - tile0;
    const int64_t common = shared < 0 ? 0 : Smaller(shared, kTilePositions);
    attention_internal::AddPositions<4>(b, row, tile0, 0, common);
    for (int64_t r = row + 1; r < row + 4; ++r) {
      const int64_t own = Smaller(b.visible[r] - tile0, kTilePositions);
      attention_internal::AddPositions<1>(b, r, tile0, common, own);
    }
  }
}

// out[0..width) = row r's weighted sum of values over its sum of p.
template <typename T>
WHALEPOD_INLINE void FinishRow(const RowBlock& b, int64_t r, int64_t width, T* out) {
  const F32x16 total = Set(b.totals[r]);
  for (int64_t i = 0; i < width; i += 16) {
    StoreRow(out + i, Load(b.sums + r * b.value_width + i) / total, width - i);
  }
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
