#pragma once

#include <bit>
#include <cstdint>

namespace whalepod {

// Element types of buffers and weights. Values equal whalepod.v1.DType's.
enum class DType : uint8_t { kF32 = 1, kBF16 = 2, kF16 = 3, kF8E4M3 = 4 };

constexpr int64_t SizeOf(DType type) {
  return type == DType::kF32 ? 4 : type == DType::kF8E4M3 ? 1 : 2;
}

constexpr const char* Name(DType type) {
  switch (type) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kF8E4M3:
      return "F8_E4M3";
  }
  return "?";
}

// Storage of one BF16 number: the upper half of an F32.
struct BF16 {
  uint16_t bits;
};

inline float ToFloat(BF16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// Round to nearest, ties to even; NaN stays NaN (quiet).
inline BF16 ToBF16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BF16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return BF16{static_cast<uint16_t>(bits >> 16)};
}

// E4M3 ("fn": no infinity, 0x7f and 0xff are NaN), exact.
float F8E4M3ToFloat(uint8_t bits);
// Round to nearest even, saturating at +-448; NaN becomes 0x7f.
uint8_t FloatToF8E4M3(float x);
// IEEE half, exact.
float F16ToFloat(uint16_t bits);

}  // namespace whalepod
