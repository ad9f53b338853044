// Conversions inside kernels; bit for bit those of kernels/dtype.h.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/dtype.h"

namespace whalepod::cuda {

__device__ inline float BF16BitsToFloat(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

__device__ inline uint16_t FloatToBF16Bits(float x) {
  uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return static_cast<uint16_t>(bits >> 16);
}

// Exact, subnormals included: the seven low bits land in an F32 exponent and mantissa 2^-120 too
// small, and one exact multiplication puts that right.
__device__ inline float E4M3BitsToFloat(uint8_t bits) {
  if ((bits & 0x7fu) == 0x7fu) return __uint_as_float(0x7fc00000u);
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fu) << 20;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(magnitude) * 0x1p+120f));
}

// Element i of an array of F32 or BF16.
__device__ inline float LoadFloat(const void* data, DType type, int64_t i) {
  if (type == DType::kF32) return static_cast<const float*>(data)[i];
  return BF16BitsToFloat(static_cast<const uint16_t*>(data)[i]);
}

__device__ inline void StoreFloat(void* data, DType type, int64_t i, float value) {
  if (type == DType::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<uint16_t*>(data)[i] = FloatToBF16Bits(value);
  }
}

}  // namespace whalepod::cuda
