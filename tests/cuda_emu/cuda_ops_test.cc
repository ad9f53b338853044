// The op cases of tests/kernels on emulated CUDA.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "tests/kernels/cases/all_cases.h"

namespace whalepod::cuda {
namespace {

class CudaDevice : public OpDevice {
 public:
  CudaDevice() { EXPECT_EQ(cudaStreamCreate(&stream_), cudaSuccess); }
  ~CudaDevice() override {
    for (void* buffer : buffers_) cudaFree(buffer);
    cudaStreamDestroy(stream_);
  }
  std::string Name() const override { return "emulated CUDA"; }
  void* Upload(const void* host, int64_t bytes) override {
    void* device = nullptr;
    EXPECT_EQ(cudaMalloc(&device, bytes), cudaSuccess);
    buffers_.push_back(device);
    if (host != nullptr) {
      EXPECT_EQ(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice), cudaSuccess);
    }
    return device;
  }
  void Download(void* host, const void* device, int64_t bytes) override {
    EXPECT_EQ(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost), cudaSuccess);
  }
  absl::Status RmsNorm(const RmsNormArgs& args) override {
    if (absl::Status status = cuda::RmsNorm(args, stream_); !status.ok()) return status;
    return CudaStatus(cudaStreamSynchronize(stream_), "RmsNorm");
  }
  absl::Status MatMul(const MatMulArgs& args) override {
    if (absl::Status status = Fp8MatMul(args, stream_); !status.ok()) return status;
    return CudaStatus(cudaStreamSynchronize(stream_), "Fp8MatMul");
  }

 private:
  cudaStream_t stream_ = nullptr;
  std::vector<void*> buffers_;
};

TEST(CudaOps, CasesHold) {
  for (const auto& op : AllOpCases()) {
    CudaDevice device;
    ExpectCaseHolds(*op, device);
  }
}

TEST(CudaOps, WhatIsMissingIsNamed) {
  RmsNormArgs norm;
  norm.weight_type = DType::kF16;
  EXPECT_EQ(cuda::RmsNorm(norm, nullptr).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace whalepod::cuda
