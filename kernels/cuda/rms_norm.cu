#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/tree.h"

namespace whalepod::cuda {
namespace {

constexpr int kLanes = 16;  // docs/numbers.md: the sum of squares has 16 lanes
constexpr int kThreads = 128;

struct Params {
  const float* x;
  int64_t ldx;
  const void* weight;
  DType weight_type;
  float eps;
  int64_t width;
  void* out;
  DType out_type;
  int64_t ldo;
};

// One block per token.
__global__ void RmsNormKernel(Params p) {
  SHARED(float, lane_sum, kLanes);
  SHARED(float, inverse, 1);
  const float* x = p.x + static_cast<int64_t>(blockIdx.x) * p.ldx;
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < kLanes) {
    float sum = 0.0f;
    for (int64_t i = lane; i < p.width; i += kLanes) sum = fmaf(x[i], x[i], sum);
    lane_sum[lane] = sum;
  }
  __syncthreads();
  if (lane == 0) {
    // The 16-leaf tree of kernels/tree.h.
    for (int step = 1; step < kLanes; step *= 2) {
      for (int i = 0; i < kLanes; i += 2 * step) lane_sum[i] = lane_sum[i] + lane_sum[i + step];
    }
    const float mean = lane_sum[0] / static_cast<float>(p.width);
    inverse[0] = 1.0f / sqrtf(mean + p.eps);
  }
  __syncthreads();
  for (int64_t i = lane; i < p.width; i += blockDim.x) {
    const float scaled = x[i] * inverse[0];
    StoreFloat(p.out, p.out_type, static_cast<int64_t>(blockIdx.x) * p.ldo + i,
               scaled * LoadFloat(p.weight, p.weight_type, i));
  }
}

}  // namespace

absl::Status RmsNorm(const RmsNormArgs& args, cudaStream_t stream) {
  if (args.weight_type == DType::kF16) {
    return absl::UnimplementedError("RmsNorm on CUDA: weight type F16; F32 and BF16 work");
  }
  const Params params{args.x,     args.ldx, args.weight,   args.weight_type, args.eps,
                      args.width, args.out, args.out_type, args.ldo};
  return Launch(RmsNormKernel, dim3(static_cast<unsigned>(args.tokens)), dim3(kThreads), 0, stream,
                params);
}

}  // namespace whalepod::cuda
