// The product of rows and one packed weight matrix, as one thread's share of MatMul and
// GroupedMatMul.
#pragma once

#include <cstdint>

#include "kernels/cpu/thread_pool.h"
#include "kernels/packing.h"

namespace whalepod::cpu::WHALEPOD_ISA {

// One product: c[r] = a[row_index[r]] * w^T for r in [0, rows).
struct ProductArgs {
  const PackedMatrix* w = nullptr;
  int64_t rows = 0;
  const void* a = nullptr;
  DType a_type = DType::kBF16;
  int64_t lda = 0;
  const int32_t* row_index = nullptr;  // null: identity
  void* c = nullptr;
  DType c_type = DType::kF32;
  int64_t ldc = 0;
  const float* a_scales = nullptr;
  int64_t lda_scales = 0;
  int64_t segment_k = 0;
};

// Outputs of panels [panel0, panel1), by thread `thread` of a ParallelFor of `pool`.
void RunProduct(const ProductArgs& args, int64_t panel0, int64_t panel1, ThreadPool& pool,
                int thread);

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t MinOf(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t MaxOf(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace whalepod::cpu::WHALEPOD_ISA
