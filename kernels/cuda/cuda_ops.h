// Ops on CUDA so far: a proof that the op interface holds on a device. Both follow the CPU's order
// of arithmetic exactly, so they agree with it to the bit. Pointers in Args are device pointers;
// scales and packed weights have the layout of kernels/packing.h.
#pragma once

#include <cuda_runtime.h>

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace whalepod::cuda {

// Queue the op on `stream` and return. Args are valid and not empty. UNIMPLEMENTED names what is
// not there yet (weight types, batches).
absl::Status RmsNorm(const RmsNormArgs& args, cudaStream_t stream);
absl::Status Fp8MatMul(const MatMulArgs& args, cudaStream_t stream);

}  // namespace whalepod::cuda
