// A small CUDA runtime for machines without one: enough of the API for kernels/cuda compiled as
// C++, executed by tests/cuda_emu/emu.cc. Threads of a block are fibers that run until they block,
// in an order shuffled by WHALEPOD_EMU_SEED; device memory is memory of its own, so a host pointer
// handed to a copy is an error.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
struct CudaEmuStream;
using cudaStream_t = CudaEmuStream*;

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaStreamCreate(cudaStream_t* stream);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
// Runs what was queued. A kernel whose threads deadlock at a barrier gives cudaErrorLaunchFailure.
cudaError_t cudaStreamSynchronize(cudaStream_t stream);

namespace cuda_emu {

struct ThreadContext {
  dim3 thread_idx, block_idx, block_dim, grid_dim;
};
const ThreadContext& Current();
void SyncThreads();
// Memory of the running block for the declaration `id` of a translation unit's `tag`.
void* BlockShared(const void* id, size_t bytes);
template <typename T, int kCounter>
T* StaticShared(size_t count) {
  static const char id = 0;
  return static_cast<T*>(BlockShared(&id, count * sizeof(T)));
}
cudaError_t Launch(dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                   std::function<void()> kernel);

}  // namespace cuda_emu

#define threadIdx (::cuda_emu::Current().thread_idx)
#define blockIdx (::cuda_emu::Current().block_idx)
#define blockDim (::cuda_emu::Current().block_dim)
#define gridDim (::cuda_emu::Current().grid_dim)
inline void __syncthreads() { ::cuda_emu::SyncThreads(); }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
using ::fmaf;
using ::sqrtf;
