// A packed panel is the transposition of 32 rows, of units of one column (F32) or two (all others);
// E4M3 is re-encoded on the way.
#include "kernels/packing.h"

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <type_traits>

namespace whalepod {
namespace {

// Sixteen bytes of units; compilers map them to what the processor has.
typedef uint8_t Codes __attribute__((vector_size(16)));
typedef uint16_t Units16 __attribute__((vector_size(16)));
typedef uint32_t Units32 __attribute__((vector_size(16)));

// A square of units: as many rows as a vector has units.
template <typename Unit>
constexpr int64_t kSquare = 16 / sizeof(Unit);
// Columns of units that are done together: a cache line of each row.
template <typename Unit>
constexpr int64_t kLine = 64 / sizeof(Unit);

// `low` and `high` become a0 b0 a1 b1 ...
inline void Interleave(Units16 a, Units16 b, Units16& low, Units16& high) {
  low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  high = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
inline void Interleave(Units32 a, Units32 b, Units32& low, Units32& high) {
  low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
}

template <typename Unit>
using VectorOf = std::conditional_t<sizeof(Unit) == 2, Units16, Units32>;

// Rows `stride` bytes apart become columns. Interleaving the upper with the lower half of the rows
// moves the top bit of an element's place to the bottom; as often as a row's number has bits, rows
// and columns have changed places.
template <typename Unit>
inline void TransposeSquare(const std::byte* src, int64_t stride, VectorOf<Unit>* rows) {
  using Vector = VectorOf<Unit>;
  constexpr int64_t n = kSquare<Unit>;
  Vector next[n];
  for (int64_t i = 0; i < n; ++i) std::memcpy(&rows[i], src + i * stride, sizeof(Vector));
  for (int64_t step = 1; step < n; step *= 2) {
    for (int64_t i = 0; i < n / 2; ++i) {
      Interleave(rows[i], rows[i + n / 2], next[2 * i], next[2 * i + 1]);
    }
    std::memcpy(rows, next, sizeof(next));
  }
}

// PackedE4M3 of each.
inline Codes Encode(Codes codes) {
  const Codes magnitude = codes & 0x7f;
  const Codes nan = reinterpret_cast<Codes>(magnitude == 0x7f);
  const Codes zero = reinterpret_cast<Codes>(magnitude == 0);
  const Codes packed = (codes & 0x80) | (codes & 0x0f) << 3 | magnitude >> 4;
  return (packed & ~(nan | zero)) | (nan & kPackedE4M3Nan);
}

// Two squares of a panel, from `row` < 16 on and 16 rows further on.
inline void TransposeRows(const std::byte* src, int64_t stride, int64_t row, uint32_t* dest) {
  constexpr int64_t n = kSquare<uint32_t>;
  Units32 columns[n];
  for (const int64_t first : {row, row + 16}) {
    TransposeSquare<uint32_t>(src + first * stride, stride, columns);
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(dest + i * kPanelRows + first, &columns[i], sizeof(columns[i]));
    }
  }
}
// E4M3: pairs of outputs of both by turns; see PackedE4M3At.
inline void TransposeRows(const std::byte* src, int64_t stride, int64_t row, uint16_t* dest) {
  constexpr int64_t n = kSquare<uint16_t>;
  Units16 columns[n], further[n];
  TransposeSquare<uint16_t>(src + row * stride, stride, columns);
  TransposeSquare<uint16_t>(src + (row + 16) * stride, stride, further);
  for (int64_t i = 0; i < n; ++i) {
    Units32 packed[2];
    Interleave(reinterpret_cast<Units32>(Encode(reinterpret_cast<Codes>(columns[i]))),
               reinterpret_cast<Units32>(Encode(reinterpret_cast<Codes>(further[i]))), packed[0],
               packed[1]);
    std::memcpy(dest + i * kPanelRows + 2 * row, packed, sizeof(packed));
  }
}

// The first `units` columns, a multiple of kLine, of 32 rows.
template <typename Unit>
void TransposePanel(const std::byte* src, int64_t stride, int64_t units, Unit* dest) {
  constexpr int64_t n = kSquare<Unit>;
  for (int64_t line = 0; line < units; line += kLine<Unit>) {
    for (int64_t row = 0; row < 16; row += n) {
      for (int64_t unit = line; unit < line + kLine<Unit>; unit += n) {
        TransposeRows(src + unit * sizeof(Unit), stride, row, dest + unit * kPanelRows);
      }
    }
  }
}

// Copies W[row][k0..k) = src[k0 * step], src[(k0 + 1) * step], ... into its lane; zeros if src is
// null (padding).
template <typename T>
void PackRow(const T* src, int64_t step, int64_t row, int64_t k0, int64_t k, T* dest) {
  const int64_t padded_k = (k + 1) / 2 * 2;
  T* panel = dest + row / kPanelRows * kPanelRows * padded_k;
  const int64_t lane = row % kPanelRows;
  for (int64_t i = k0; i < padded_k; ++i) {
    const T value = src != nullptr && i < k ? src[i * step] : T{0};
    if constexpr (sizeof(T) == 1) {
      panel[i / 2 * 2 * kPanelRows + PackedE4M3At(lane, i % 2)] = PackedE4M3(value);
    } else if constexpr (sizeof(T) == 2) {
      panel[(i / 2 * kPanelRows + lane) * 2 + i % 2] = value;
    } else {
      panel[i * kPanelRows + lane] = value;
    }
  }
}

template <typename T>
void PackPadding(int64_t n, int64_t k, T* dest) {
  const int64_t padded_n = (n + kPanelRows - 1) / kPanelRows * kPanelRows;
  for (int64_t r = n; r < padded_n; ++r) PackRow<T>(nullptr, 0, r, 0, k, dest);
}

template <typename T, typename Unit>
void PackRowsAs(const void* src, int64_t stride, int64_t row0, int64_t rows, int64_t n, int64_t k,
                void* dest) {
  constexpr int64_t per_unit = std::is_same_v<Unit, T> ? 1 : 2;
  const T* from = static_cast<const T*>(src);
  T* to = static_cast<T*>(dest);
  const int64_t padded_k = (k + 1) / 2 * 2;
  const int64_t units = k / per_unit / kLine<Unit> * kLine<Unit>;
  for (int64_t r = 0; r < rows;) {
    const bool whole = (row0 + r) % kPanelRows == 0 && rows - r >= kPanelRows;
    const int64_t count = whole ? kPanelRows : 1;
    if (whole) {
      TransposePanel<Unit>(reinterpret_cast<const std::byte*>(from + r * stride),
                           stride * sizeof(T), units,
                           reinterpret_cast<Unit*>(to + (row0 + r) * padded_k));
    }
    for (const int64_t end = r + count; r < end; ++r) {
      PackRow(from + r * stride, 1, row0 + r, whole ? units * per_unit : 0, k, to);
    }
  }
  if (row0 + rows == n) PackPadding(n, k, to);
}

template <typename T>
void PackTransposedAs(const void* src, int64_t stride, int64_t n, int64_t k, void* dest) {
  const T* from = static_cast<const T*>(src);
  T* to = static_cast<T*>(dest);
  for (int64_t row = 0; row < n; ++row) PackRow(from + row, stride, row, 0, k, to);
  PackPadding(n, k, to);
}

}  // namespace

void PackRows(DType dtype, const void* src, int64_t src_stride, int64_t row0, int64_t rows,
              int64_t n, int64_t k, void* dest) {
  switch (dtype) {
    case DType::kF32:
      PackRowsAs<uint32_t, uint32_t>(src, src_stride, row0, rows, n, k, dest);
      break;
    case DType::kBF16:
    case DType::kF16:
      PackRowsAs<uint16_t, uint32_t>(src, src_stride, row0, rows, n, k, dest);
      break;
    case DType::kF8E4M3:
      PackRowsAs<uint8_t, uint16_t>(src, src_stride, row0, rows, n, k, dest);
      break;
  }
}

void PackTransposed(DType dtype, const void* src, int64_t src_stride, int64_t n, int64_t k,
                    void* dest) {
  switch (dtype) {
    case DType::kF32:
      PackTransposedAs<uint32_t>(src, src_stride, n, k, dest);
      break;
    case DType::kBF16:
    case DType::kF16:
      PackTransposedAs<uint16_t>(src, src_stride, n, k, dest);
      break;
    case DType::kF8E4M3:
      PackTransposedAs<uint8_t>(src, src_stride, n, k, dest);
      break;
  }
}

}  // namespace whalepod
