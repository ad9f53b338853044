// What both forms of attention share: rows (queries) against tiles of positions. The order of every
// sum is in docs/numbers.md ("Other orders"); no result depends on where a tile or a block of rows
// begins. Include from kernels/cpu/<op>.cc only, as kernels/cpu/simd.h.
#pragma once

#include "kernels/cpu/math.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace whalepod::cpu::WHALEPOD_ISA {

// Scores are made in blocks of 16: R rows x P positions. A path with 32 registers keeps all 16 sums
// in them; others do four passes of 2 x 2. Weighted sums of values take R rows at a time.
#if defined(WHALEPOD_ISA_AVX512)
constexpr bool kWholeBlocks = true;
constexpr int kValueSums = 16;
#else
constexpr bool kWholeBlocks = false;
constexpr int kValueSums = 4;
#endif

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

// One block of rows in one thread's scratch. `rows` is a multiple of the R that is used; unused
// rows are zero.
struct RowBlock {
  int64_t rows = 0;
  int64_t key_width = 0;       // of a query, rounded up to 16, the rest zero
  int64_t value_width = 0;     // of a weighted sum, rounded up to 16, the rest anything
  float* queries = nullptr;    // [rows, key_width]
  float* sums = nullptr;       // [rows, value_width]: weighted sums of values
  float* totals = nullptr;     // [rows]: sums of p
  int64_t* visible = nullptr;  // [rows]: positions row r sees, ascending with r; 0 for unused rows
  float* scores = nullptr;     // [rows, ld]
  int64_t ld = 0;              // positions rounded up to a whole tile
};

WHALEPOD_INLINE int64_t RowBlockBytes(int64_t rows, int64_t key_width, int64_t value_width) {
  return rows * (RoundUp(key_width, 16) + RoundUp(value_width, 16) + 16) *
         static_cast<int64_t>(sizeof(float));
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
  b.scores = scores;
  b.ld = ld;
  return b;
}

namespace attention_internal {

// Keeps the compiler from loading `v` once for each use.
WHALEPOD_INLINE void KeepInRegister(F32x16& v) {
#if defined(WHALEPOD_ISA_AVX512)
  asm("" : "+v"(v.v));
#endif
}

// sum[r][p] += query r's elements [i, i + 16) times those of key p, lane by lane.
template <int R, int P, typename LoadKey>
WHALEPOD_INLINE void AddProducts(const float* queries, int64_t ldq, const LoadKey& load_key,
                                 F32x16 sum[R][P]) {
  F32x16 key[P];
  for (int p = 0; p < P; ++p) key[p] = load_key(p);
  for (int r = 0; r < R; ++r) {
    F32x16 query = Load(queries + r * ldq);
    KeepInRegister(query);
    for (int p = 0; p < P; ++p) sum[r][p] = Fma(query, key[p], sum[r][p]);
  }
}

// sums[stride * r + p] = the lanes of query r times key p. queries: [R, ldq], zero behind `width`.
template <int R, int P, typename T>
WHALEPOD_INLINE void ScoreLanes(const float* queries, int64_t ldq, const T* const* keys,
                                int64_t width, F32x16* sums, int stride) {
  F32x16 sum[R][P];
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) sum[r][p] = Zero();
  }
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    AddProducts<R, P>(
        queries + i, ldq, [&](int p) { return Load(keys[p] + i); }, sum);
  }
  if (i < width) {
    const int left = static_cast<int>(width - i);
    AddProducts<R, P>(
        queries + i, ldq, [&](int p) { return LoadPartial(keys[p] + i, left); }, sum);
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) sums[stride * r + p] = sum[r][p];
  }
}

// Scores of R rows from `row` against P keys at positions from `position`.
template <int R, int P, typename T>
WHALEPOD_INLINE void ScoreBlock(const RowBlock& b, int64_t row, int64_t position,
                                const T* const* keys, int64_t width, float scale) {
  static_assert(R * P == 16);
  constexpr int kR = kWholeBlocks ? R : 2, kP = kWholeBlocks ? P : 2;
  F32x16 lanes[16];
  for (int r = 0; r < R; r += kR) {
    for (int p = 0; p < P; p += kP) {
      ScoreLanes<kR, kP>(b.queries + (row + r) * b.key_width, b.key_width, keys + p, width,
                         lanes + P * r + p, P);
    }
  }
  float scores[16];
  Store(scores, ReduceTree16(lanes) * Set(scale));
  for (int r = 0; r < R; ++r) {
    __builtin_memcpy(b.scores + (row + r) * b.ld + position, scores + P * r, P * sizeof(float));
  }
}

// Adds p * value over positions [begin, end) of the tile to `count` rows from `row`: 16 * vectors
// columns from `column`, of which the values have `width`.
template <int count, int vectors, typename T>
WHALEPOD_INLINE void AddValues(const RowBlock& b, int64_t row, int64_t tile0,
                               const T* const* values, int64_t begin, int64_t end, int64_t column,
                               int64_t width) {
  F32x16 sum[count][vectors];
  float* sums = b.sums + row * b.value_width + column;
  const float* p = b.scores + row * b.ld + tile0;
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) sum[r][v] = Load(sums + r * b.value_width + 16 * v);
  }
  const bool whole = column + 16 * vectors <= width;
  for (int64_t j = begin; j < end; ++j) {
    F32x16 value[vectors];
    for (int v = 0; v < vectors; ++v) {
      const T* from = values[j] + column + 16 * v;
      value[v] = whole ? Load(from) : LoadPartial(from, static_cast<int>(width - column - 16 * v));
    }
    for (int r = 0; r < count; ++r) {
      const F32x16 weight = Set(p[r * b.ld + j]);
      for (int v = 0; v < vectors; ++v) sum[r][v] = Fma(weight, value[v], sum[r][v]);
    }
  }
  for (int r = 0; r < count; ++r) {
    for (int v = 0; v < vectors; ++v) Store(sums + r * b.value_width + 16 * v, sum[r][v]);
  }
}

template <int count, typename T>
WHALEPOD_INLINE void AddPositions(const RowBlock& b, int64_t row, int64_t tile0,
                                  const T* const* values, int64_t width, int64_t begin,
                                  int64_t end) {
  if (begin >= end) return;
  constexpr int kVectors = kValueSums / count > 4 ? 4 : kValueSums / count;
  int64_t column = 0;
  for (; column + 16 * kVectors <= width; column += 16 * kVectors) {
    AddValues<count, kVectors>(b, row, tile0, values, begin, end, column, width);
  }
  for (; column < width; column += 16) {
    AddValues<count, 1>(b, row, tile0, values, begin, end, column, width);
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

// Scores of all rows against the keys [count][width] of positions tile0.. . Positions a row can't
// see get a score that nothing reads; keys: `count` rounded up to P. Calls between() after each
// block of scores.
template <int R, int P, typename T, typename Fn>
WHALEPOD_INLINE void ScoreTile(const RowBlock& b, int64_t tile0, int64_t count,
                               const T* const* keys, int64_t width, float scale,
                               const Fn& between) {
  for (int64_t row = 0; row < b.rows; row += R) {
    bool seen = false;
    for (int64_t r = row; r < row + R; ++r) seen = seen || b.visible[r] > tile0;
    if (!seen) continue;
    for (int64_t p = 0; p < count; p += P) {
      attention_internal::ScoreBlock<R, P>(b, row, tile0 + p, keys + p, width, scale);
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
    // Whole vectors: what lies behind the visible scores is inside the row, may be anything, and is
    // of no account.
    for (int64_t i = 0; i < n; i += 16) Store(s + i, Exp(Load(s + i) - highest));
  }
}

// Adds the values [count][width] of positions tile0.. . R rows at a time over the positions all of
// them see, then each alone over what only it sees.
template <int R, typename T>
WHALEPOD_INLINE void AddValueTile(const RowBlock& b, int64_t tile0, int64_t count,
                                  const T* const* values, int64_t width) {
  for (int64_t row = 0; row < b.rows; row += R) {
    const int64_t shared = b.visible[row] - tile0;
    const int64_t common = shared < 0 ? 0 : Smaller(shared, count);
    attention_internal::AddPositions<R>(b, row, tile0, values, width, 0, common);
    for (int64_t r = row + 1; r < row + R; ++r) {
      const int64_t own = Smaller(b.visible[r] - tile0, count);
      attention_internal::AddPositions<1>(b, r, tile0, values, width, common, own);
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
