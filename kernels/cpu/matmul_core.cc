// The order of arithmetic is docs/numbers.md's "Products"; blocking changes only where an
// accumulator waits.
//
// K is cut into chunks of at most kChunk columns that end where a segment, or an FP8 scale block,
// does. A block of rows times a block of panels goes through the chunks of one segment after the
// other, with
// - its rows of `a`, a chunk of columns, as F32 [rows][kChunk]: made once, or for each block of
// panels;
// - the weights of one panel and chunk as F32 [kChunk][32], if several groups of rows use them;
// - the sums [panel][row][32], once for each node of the tree that waits.
// A group of at most kMaxRows rows times 32 outputs has its accumulators in registers. Because an
// output's multiply-adds wait for each other, one row is multiplied by two panels at once.
#include "kernels/cpu/matmul_core.h"

#include "kernels/cpu/simd.h"
#include "kernels/tree.h"

namespace whalepod::cpu::WHALEPOD_ISA {
namespace {

constexpr int64_t kChunk = 128;
#if defined(WHALEPOD_ISA_AVX512)
constexpr int kMaxRows = 12;  // 24 of 32 registers accumulate
#elif defined(WHALEPOD_ISA_AVX2)
constexpr int kMaxRows = 3;  // 12 of 16
#else
constexpr int kMaxRows = 4;
#endif
constexpr int64_t kPanelsOfOneRow = 2;
constexpr int64_t kRowBlock = 240;
constexpr int64_t kPanelBlock = 16;
constexpr int64_t kWholeRows = 256 << 10;  // bytes of `a` that are packed whole
constexpr int64_t kPrefetchBytes = 4096;   // about what arrives while memory answers

// Columns [k0, k1) of one segment and one scale block.
struct Chunk {
  int64_t k0, k1;
  int64_t run;          // index of the scale run, = group of W8A8 scales
  const float* scales;  // FP8: of the run's columns and the first block of outputs
  bool first, last;     // of its run
  // The chunk's own first column is base(); pairs start at even columns.
  int64_t base() const { return k0 & ~int64_t{1}; }
};

// What a group of rows does with one chunk of one panel, or one row of two panels.
struct TileArgs {
  const uint8_t* w;     // the chunk's first pair
  int64_t panel_bytes;  // to the next panel's
  const uint8_t* panel_end;
  int64_t panel_floats;  // from acc and sum to the next panel's
  const float* a;        // [rows][kChunk]
  int64_t columns;       // from the chunk's base to its end
  bool skip_first;       // the first column belongs to another run
  bool skip_pad;         // an odd end whose partner belongs to another run
  bool start, finish;    // the run's first and last chunk
  float* acc;            // [panels][rows][32], where a run's accumulators wait between chunks
  // FP8: at the run's end sum = fma(scale, acc, sum). Null: the accumulators are the sum.
  float* sum;             // [panels][rows][32]
  const float* scale;     // [panels][32]
  const float* a_scales;  // one per row, `lda_scales` apart (by row index), or null
  int64_t lda_scales;
  const int32_t* row_index;  // of the group's first row, or null
  int64_t first_row;
};

template <int R>
WHALEPOD_INLINE void MultiplyColumn(const float* a, const F32x16 w[2], F32x16 acc[R][2]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const F32x16 x = Set(a[r * kChunk]);
    acc[r][0] = Fma(x, w[0], acc[r][0]);
    acc[r][1] = Fma(x, w[1], acc[r][1]);
  }
}

// total = fma(scale, acc, total) at the end of a run.
template <int R>
WHALEPOD_INLINE void AddScaled(const TileArgs& t, int panel, const F32x16 acc[R][2]) {
  const float* const scales = t.scale + panel * kPanelRows;
  const F32x16 scale[2] = {Load(scales), Load(scales + 16)};
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    F32x16 s[2] = {scale[0], scale[1]};
    if (t.a_scales != nullptr) {
      const int64_t row = t.row_index != nullptr ? t.row_index[r] : t.first_row + r;
      const F32x16 x = Set(t.a_scales[row * t.lda_scales]);
      s[0] = x * s[0];
      s[1] = x * s[1];
    }
    float* sum = t.sum + panel * t.panel_floats + r * kPanelRows;
    Store(sum, Fma(s[0], acc[r][0], Load(sum)));
    Store(sum + 16, Fma(s[1], acc[r][1], Load(sum + 16)));
  }
}

// `a`: the pair's first activation; `w`: the first panel's pair.
template <DType type, int R, int P, bool first, bool second>
WHALEPOD_INLINE void MultiplyPair(const TileArgs& t, const float* a, const uint8_t* w,
                                  F32x16 acc[P][R][2]) {
  F32x16 even[P][2], odd[P][2];
  ExpandPairs<type, P>(w, t.panel_bytes, even, odd);
#pragma GCC unroll 2
  for (int p = 0; p < P; ++p) {
    if (second) MultiplyColumn<R>(a + 1, odd[p], acc[p]);
    if (first) MultiplyColumn<R>(a, even[p], acc[p]);
  }
}

template <DType type, int R, int P>
void Tile(const TileArgs& t) {
  constexpr int64_t kPairBytes = 2 * kPanelRows * SizeOf(type);
  F32x16 acc[P][R][2];
#pragma GCC unroll 16
  for (int i = 0; i < P * R; ++i) {
    const float* from = t.acc + i / R * t.panel_floats + i % R * kPanelRows;
    acc[i / R][i % R][0] = t.start ? Zero() : Load(from);
    acc[i / R][i % R][1] = t.start ? Zero() : Load(from + 16);
  }
  const uint8_t* w = t.w;
  const float* a = t.a;
  const float* const end = a + t.columns / 2 * 2;
  if (t.skip_first) {
    MultiplyPair<type, R, P, false, true>(t, a, w, acc);
    w += kPairBytes;
    a += 2;
  }
  for (; a < end; a += 2, w += kPairBytes) {
    if constexpr (R <= 4) {
      // Behind a panel lie those that are read next, not the one that is read beside it.
      const uint8_t* next = w + kPrefetchBytes;
      if (P > 1 && next >= t.panel_end) next += (P - 1) * t.panel_bytes;
      for (int64_t line = 0; line < P * kPairBytes; line += 64) {
        __builtin_prefetch(next + line / kPairBytes * t.panel_bytes + line % kPairBytes, 0, 2);
      }
    }
    MultiplyPair<type, R, P, true, true>(t, a, w, acc);
  }
  if (t.columns % 2 != 0) {
    if (t.skip_pad) {
      MultiplyPair<type, R, P, true, false>(t, a, w, acc);
    } else {
      MultiplyPair<type, R, P, true, true>(t, a, w, acc);
    }
  }
  if (t.finish && t.sum != nullptr) {
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) AddScaled<R>(t, p, acc[p]);
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < P * R; ++i) {
    float* to = t.acc + i / R * t.panel_floats + i % R * kPanelRows;
    Store(to, acc[i / R][i % R][0]);
    Store(to + 16, acc[i / R][i % R][1]);
  }
}

template <DType type, int R>
WHALEPOD_INLINE void TileOfRows(int rows, const TileArgs& t) {
  if (rows == R) return Tile<type, R, 1>(t);
  if constexpr (R > 1) TileOfRows<type, R - 1>(rows, t);
}

// Of one panel, or of kPanelsOfOneRow and one row.
template <DType type>
void TileOf(int rows, int64_t panels, const TileArgs& t) {
  if (panels > 1) return Tile<type, 1, kPanelsOfOneRow>(t);
  TileOfRows<type, kMaxRows>(rows, t);
}

void RunTile(DType type, int rows, int64_t panels, const TileArgs& t) {
  switch (type) {
    case DType::kF32:
      return TileOf<DType::kF32>(rows, panels, t);
    case DType::kBF16:
      return TileOf<DType::kBF16>(rows, panels, t);
    case DType::kF16:
      return TileOf<DType::kF16>(rows, panels, t);
    case DType::kF8E4M3:
      return TileOf<DType::kF8E4M3>(rows, panels, t);
  }
}

// One panel's weights of `pairs` pairs as F32, in F32's packed layout. Asks for as much at `next`,
// which is expanded after this panel's products.
template <DType type>
void ExpandWeights(const uint8_t* w, const uint8_t* next, int64_t pairs, float* out) {
  constexpr int64_t kPairBytes = 2 * kPanelRows * SizeOf(type);
  for (int64_t p = 0; p < pairs; ++p, w += kPairBytes, next += kPairBytes, out += 2 * kPanelRows) {
    for (int64_t line = 0; line < kPairBytes; line += 64) __builtin_prefetch(next + line, 0, 2);
    F32x16 even[1][2], odd[1][2];
    ExpandPairs<type, 1>(w, 0, even, odd);
    Store(out, even[0][0]);
    Store(out + 16, even[0][1]);
    Store(out + 32, odd[0][0]);
    Store(out + 48, odd[0][1]);
  }
}

// `count` activations as F32, zeros up to a multiple of 16.
template <typename T>
void CopyRow(const T* a, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) Store(out + i, Load(a + i));
  if (i < count) Store(out + i, LoadPartial(a + i, static_cast<int>(count - i)));
}

// One thread's part of one product.
class Product {
 public:
  Product(const ProductArgs& args, ThreadPool& pool, int thread)
      : args_(args),
        w_(*args.w),
        segment_(args.segment_k > 0 && args.segment_k < w_.k ? args.segment_k : w_.k),
        segments_(CeilDiv(w_.k, segment_)),
        scaled_(w_.dtype == DType::kF8E4M3),
        pair_bytes_(2 * kPanelRows * SizeOf(w_.dtype)),
        panel_bytes_(CeilDiv(w_.k, 2) * pair_bytes_),
        row_block_(CeilDiv(args.rows, CeilDiv(args.rows, kRowBlock))),
        panel_block_(row_block_ > kMaxRows ? kPanelBlock
                     : row_block_ > 1      ? 1
                                           : kPanelsOfOneRow) {
    MakeScratch(pool, thread);
    MakeChunks();
  }

  // Outputs of panels [panel0, panel1).
  void Run(int64_t panel0, int64_t panel1) {
    for (first_row_ = 0; first_row_ < args_.rows; first_row_ += row_block_) {
      rows_ = MinOf(args_.rows - first_row_, row_block_);
      groups_ = CeilDiv(rows_, kMaxRows);
      if (whole_rows_) {
        for (int64_t c = 0; c < chunk_count_; ++c) CopyRows(chunks_[c], RowsOfChunk(c));
      }
      for (panel0_ = panel0; panel0_ < panel1; panel0_ += panel_block_) {
        panels_ = MinOf(panel1 - panel0_, panel_block_);
        if (scaled_) FindScales();
        SumSegments(0, segments_, sums_);
        WriteOutputs();
      }
    }
  }

 private:
  int64_t BlockFloats() const { return panel_block_ * row_block_ * kPanelRows; }
  float* RowsOfChunk(int64_t c) { return a_ + (whole_rows_ ? c * row_block_ * kChunk : 0); }

  void MakeScratch(ThreadPool& pool, int thread) {
    int64_t depth = 1;  // nodes of the tree that wait at once
    while ((int64_t{1} << (depth - 1)) < segments_) ++depth;
    int64_t most_chunks = segments_ + w_.k / (kChunk - 1) + 1;
    if (scaled_) most_chunks += w_.k / w_.block_k + 1;
    whole_rows_ = most_chunks * row_block_ * kChunk * 4 <= kWholeRows || row_block_ <= kMaxRows;
    const int64_t a_floats = (whole_rows_ ? most_chunks : 1) * row_block_ * kChunk;
    const int64_t w_floats = kChunk * kPanelRows;
    const int64_t floats = a_floats + w_floats + (depth + 1) * BlockFloats();
    float* next = static_cast<float*>(
        pool.ThreadScratch(thread, floats * 4 + most_chunks * static_cast<int64_t>(sizeof(Chunk))));
    a_ = next;
    expanded_ = a_ + a_floats;
    acc_ = expanded_ + w_floats;
    sums_ = acc_ + BlockFloats();
    chunks_ = reinterpret_cast<Chunk*>(next + floats);
  }

  void MakeChunks() {
    int64_t run = 0;
    for (int64_t k0 = 0; k0 < w_.k; ++run) {
      int64_t run_end = MinOf((k0 / segment_ + 1) * segment_, w_.k);
      const float* scales = nullptr;
      if (scaled_) {
        const int64_t block = (k0 + w_.phase_k) / w_.block_k;
        run_end = MinOf(run_end, (block + 1) * w_.block_k - w_.phase_k);
        scales = w_.scales + block * w_.scale_stride_k;
      }
      for (bool first = true; k0 < run_end; first = false) {
        Chunk chunk{k0, 0, run, scales, first, false};
        chunk.k1 = MinOf(run_end, chunk.base() + kChunk);
        chunk.last = chunk.k1 == run_end;
        k0 = chunk.k1;
        chunks_[chunk_count_++] = chunk;
      }
    }
  }

  // The sum of segments [lo, hi) by the tree, into out; what follows `out` is scratch.
  void SumSegments(int64_t lo, int64_t hi, float* out) {
    if (hi - lo == 1) return SumSegment(lo, out);
    const int64_t mid = TreeSplit(lo, hi);
    float* right = out + BlockFloats();
    SumSegments(lo, mid, out);
    SumSegments(mid, hi, right);
    for (int64_t i = 0; i < panels_ * rows_ * kPanelRows; i += 16) {
      Store(out + i, Load(out + i) + Load(right + i));
    }
  }

  void SumSegment(int64_t segment, float* out) {
    const int64_t begin = segment * segment_;
    const int64_t end = MinOf(begin + segment_, w_.k);
    if (scaled_) {
      for (int64_t i = 0; i < panels_ * rows_ * kPanelRows; i += 16) Store(out + i, Zero());
    }
    const int64_t at_once = row_block_ == 1 && panels_ == kPanelsOfOneRow ? panels_ : 1;
    for (int64_t c = 0; c < chunk_count_; ++c) {
      if (chunks_[c].k0 < begin || chunks_[c].k0 >= end) continue;
      if (!whole_rows_) CopyRows(chunks_[c], a_);
      for (int64_t p = 0; p < panels_; p += at_once) MultiplyPanel(c, p, at_once, out);
    }
  }

  // All rows of the block times panel `p` of the panel block, over chunk `c`; or the one row times
  // the `at_once` panels from `p` on.
  void MultiplyPanel(int64_t c, int64_t p, int64_t at_once, float* out) {
    const Chunk& chunk = chunks_[c];
    const uint8_t* w = static_cast<const uint8_t*>(w_.data) + (panel0_ + p) * panel_bytes_ +
                       chunk.base() / 2 * pair_bytes_;
    DType type = w_.dtype;
    if (groups_ > 1 && type != DType::kF32) {
      const int64_t pairs = CeilDiv(chunk.k1 - chunk.base(), 2);
      const uint8_t* next =
          w + (p + 1 < panels_ ? panel_bytes_ : pairs * pair_bytes_ - p * panel_bytes_);
      Expand(w, next, pairs);
      w = reinterpret_cast<const uint8_t*>(expanded_);
      type = DType::kF32;
    }
    alignas(64) float scale[kPanelsOfOneRow * kPanelRows];
    for (int64_t i = 0; i < at_once && scaled_ && chunk.last; ++i) {
      LoadScales(chunk, p + i, scale + i * kPanelRows);
    }
    const float* a = RowsOfChunk(c);
    TileArgs tile;
    tile.w = w;
    tile.panel_bytes = panel_bytes_;
    tile.panel_end = static_cast<const uint8_t*>(w_.data) + (panel0_ + p + 1) * panel_bytes_;
    tile.panel_floats = rows_ * kPanelRows;
    tile.columns = chunk.k1 - chunk.base();
    tile.skip_first = chunk.k0 != chunk.base();
    tile.skip_pad = chunk.k1 != w_.k;
    tile.start = chunk.first;
    tile.finish = chunk.last;
    tile.scale = scale;
    tile.a_scales = args_.a_scales != nullptr ? args_.a_scales + chunk.run : nullptr;
    tile.lda_scales = args_.lda_scales;
    for (int64_t g = 0; g < groups_; ++g) {
      const int64_t row = rows_ * g / groups_;
      const int64_t offset = (p * rows_ + row) * kPanelRows;
      tile.a = a + row * kChunk;
      tile.acc = (scaled_ ? acc_ : out) + offset;
      tile.sum = scaled_ ? out + offset : nullptr;
      tile.first_row = first_row_ + row;
      tile.row_index = args_.row_index != nullptr ? args_.row_index + tile.first_row : nullptr;
      RunTile(type, static_cast<int>(rows_ * (g + 1) / groups_ - row), at_once, tile);
    }
  }

  void Expand(const uint8_t* w, const uint8_t* next, int64_t pairs) {
    switch (w_.dtype) {
      case DType::kF32:
        return;
      case DType::kBF16:
        return ExpandWeights<DType::kBF16>(w, next, pairs, expanded_);
      case DType::kF16:
        return ExpandWeights<DType::kF16>(w, next, pairs, expanded_);
      case DType::kF8E4M3:
        return ExpandWeights<DType::kF8E4M3>(w, next, pairs, expanded_);
    }
  }

  // Where the scales of the block's panels are.
  void FindScales() {
    for (int64_t p = 0; p < panels_; ++p) {
      const int64_t first = (panel0_ + p) * kPanelRows + w_.phase_n;
      const int64_t last = MinOf(first + kPanelRows, w_.n + w_.phase_n) - 1;
      scale_at_[p] = first / w_.block_n * w_.scale_stride_n;
      one_scale_[p] = first / w_.block_n == last / w_.block_n;
    }
  }

  // The scales of panel `p` of the panel block for a chunk's run, in kUnitE4M3.
  void LoadScales(const Chunk& chunk, int64_t p, float* scale) const {
    if (one_scale_[p]) {
      const F32x16 all = Set(chunk.scales[scale_at_[p]] * kUnitE4M3);
      Store(scale, all);
      Store(scale + 16, all);
      return;
    }
    const int64_t first = (panel0_ + p) * kPanelRows;
    for (int64_t i = 0; i < kPanelRows; ++i) {
      const int64_t output = MinOf(first + i, w_.n - 1) + w_.phase_n;
      scale[i] = chunk.scales[output / w_.block_n * w_.scale_stride_n] * kUnitE4M3;
    }
  }

  void CopyRows(const Chunk& chunk, float* out) const {
    for (int64_t r = 0; r < rows_; ++r) {
      const int64_t row =
          args_.row_index != nullptr ? args_.row_index[first_row_ + r] : first_row_ + r;
      const int64_t from = row * args_.lda + chunk.base();
      const int64_t count = MinOf(chunk.k1 + 1, w_.k) - chunk.base();
      const int64_t kept = MinOf(count, kChunk);
      if (args_.a_type == DType::kF32) {
        CopyRow(static_cast<const float*>(args_.a) + from, kept, out + r * kChunk);
      } else {
        CopyRow(static_cast<const BF16*>(args_.a) + from, kept, out + r * kChunk);
      }
    }
  }

  template <typename T>
  void WriteOutputsAs(T* c) const {
    for (int64_t p = 0; p < panels_; ++p) {
      const int64_t n0 = (panel0_ + p) * kPanelRows;
      const int64_t count = MinOf(w_.n - n0, kPanelRows);
      for (int64_t r = 0; r < rows_; ++r) {
        const float* sum = sums_ + (p * rows_ + r) * kPanelRows;
        T* out = c + (first_row_ + r) * args_.ldc + n0;
        StorePartial(out, Load(sum), static_cast<int>(MinOf(count, 16)));
        if (count > 16) StorePartial(out + 16, Load(sum + 16), static_cast<int>(count - 16));
      }
    }
  }
  void WriteOutputs() const {
    if (args_.c_type == DType::kF32) return WriteOutputsAs(static_cast<float*>(args_.c));
    WriteOutputsAs(static_cast<BF16*>(args_.c));
  }

  const ProductArgs& args_;
  const PackedMatrix& w_;
  const int64_t segment_, segments_;
  const bool scaled_;
  const int64_t pair_bytes_, panel_bytes_;
  const int64_t row_block_, panel_block_;
  bool whole_rows_ = false;
  Chunk* chunks_ = nullptr;
  int64_t chunk_count_ = 0;
  float* a_ = nullptr;
  float* expanded_ = nullptr;
  float* acc_ = nullptr;
  float* sums_ = nullptr;
  // The block being worked on.
  int64_t first_row_ = 0, rows_ = 0, groups_ = 0, panel0_ = 0, panels_ = 0;
  // FP8, of each of its panels: from a chunk's scales to its first, and whether it is the only one.
  int64_t scale_at_[kPanelBlock];
  bool one_scale_[kPanelBlock];
};

}  // namespace

void RunProduct(const ProductArgs& args, int64_t panel0, int64_t panel1, ThreadPool& pool,
                int thread) {
  Product(args, pool, thread).Run(panel0, panel1);
}

}  // namespace whalepod::cpu::WHALEPOD_ISA
