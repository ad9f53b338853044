// The one way kernels are launched, and the few words .cu files may use that plain C++ lacks. The
// same files compile with nvcc, and as C++ against tests/cuda_emu (WHALEPOD_CUDA_EMU), where every
// thread of a block is a fiber. Rules for .cu files: Launch() instead of <<<>>>, SHARED instead of
// __shared__, no device lambdas, no __CUDA_ARCH__.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#ifdef WHALEPOD_CUDA_EMU
// T name[count] in the block's shared memory.
#define SHARED(T, name, count) T* const name = ::cuda_emu::StaticShared<T, __COUNTER__>(count)
#else
#define SHARED(T, name, count) __shared__ T name[count]
#endif

namespace whalepod::cuda {

// INTERNAL with CUDA's own words; `what` says which call.
inline absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

// Queues kernel(args...) on `stream` with `smem` bytes of dynamic shared memory.
template <typename... Params, typename... Args>
absl::Status Launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem,
                    cudaStream_t stream, Args... args) {
#ifdef WHALEPOD_CUDA_EMU
  const cudaError_t error =
      ::cuda_emu::Launch(grid, block, smem, stream, [=] { kernel(static_cast<Params>(args)...); });
#else
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = smem;
  config.stream = stream;
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
#endif
  return CudaStatus(error, "kernel launch");
}

}  // namespace whalepod::cuda
