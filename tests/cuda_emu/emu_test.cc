// The emulator itself: it must fail where a GPU would.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/launch.h"

namespace whalepod::cuda {
namespace {

__global__ void ReverseKernel(int* data, int n) {
  SHARED(int, staged, 64);
  const int i = static_cast<int>(threadIdx.x);
  staged[i] = data[i];
  __syncthreads();
  data[i] = staged[n - 1 - i];
}

__global__ void DeadlockKernel(int* data) {
  if (threadIdx.x == 0) return;
  __syncthreads();
  data[threadIdx.x] = 1;
}

class EmuTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(cudaStreamCreate(&stream_), cudaSuccess); }
  void TearDown() override {
    cudaFree(device_);
    cudaStreamDestroy(stream_);
  }
  int* Device(size_t count) {
    EXPECT_EQ(cudaMalloc(&device_, count * sizeof(int)), cudaSuccess);
    return static_cast<int*>(device_);
  }
  cudaStream_t stream_ = nullptr;
  void* device_ = nullptr;
};

TEST_F(EmuTest, BarriersOrderSharedMemory) {
  std::vector<int> values(64);
  for (int i = 0; i < 64; ++i) values[i] = i;
  int* device = Device(64);
  ASSERT_EQ(cudaMemcpy(device, values.data(), 256, cudaMemcpyHostToDevice), cudaSuccess);
  ASSERT_TRUE(Launch(ReverseKernel, dim3(1), dim3(64), 0, stream_, device, 64).ok());
  ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess);
  ASSERT_EQ(cudaMemcpy(values.data(), device, 256, cudaMemcpyDeviceToHost), cudaSuccess);
  for (int i = 0; i < 64; ++i) EXPECT_EQ(values[i], 63 - i);
}

TEST_F(EmuTest, ABarrierThatSomeThreadsLeftIsAFailure) {
  ASSERT_TRUE(Launch(DeadlockKernel, dim3(1), dim3(32), 0, stream_, Device(32)).ok());
  EXPECT_EQ(cudaStreamSynchronize(stream_), cudaErrorLaunchFailure);
}

TEST_F(EmuTest, CopiesCheckWhichSideAPointerIsOn) {
  int host[4] = {};
  int* device = Device(4);
  EXPECT_EQ(cudaMemcpy(host, host, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(device, host, 32, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
}

TEST_F(EmuTest, BlocksAreLimited) {
  EXPECT_FALSE(Launch(DeadlockKernel, dim3(1), dim3(2048), 0, stream_, Device(1)).ok());
}

}  // namespace
}  // namespace whalepod::cuda
