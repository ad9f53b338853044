#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"

namespace whalepod::cuda {
namespace {

constexpr int kPanel = static_cast<int>(kPanelRows);  // one warp: lane = output of a panel
constexpr int kRowsPerBlock = 4;
constexpr int kMaxSegments = 16;

struct Params {
  int64_t m, n, k;
  const void* a;
  DType a_type;
  int64_t lda;
  const uint8_t* w;  // packed panels, E4M3
  const float* scales;
  int64_t scale_stride_n, scale_stride_k;
  int32_t block_n, block_k, phase_n, phase_k;
  int64_t segment_k;
  const float* a_scales;
  int64_t lda_scales;
  void* c;
  DType c_type;
  int64_t ldc;
};

__device__ inline float WeightScale(const Params& p, int64_t n, int64_t k) {
  return p.scales[((n + p.phase_n) / p.block_n) * p.scale_stride_n +
                  ((k + p.phase_k) / p.block_k) * p.scale_stride_k];
}

// Columns [begin, end) of one output in the canonical order: pairs with the odd element first, one
// accumulator per scale block.
__device__ float Segment(const Params& p, int64_t row, int64_t n, const uint8_t* panel, int lane,
                         int64_t begin, int64_t end, int64_t* group) {
  float total = 0.0f;
  int64_t k = begin;
  while (k < end) {
    int64_t stop = k + p.block_k - (k + p.phase_k) % p.block_k;
    if (stop > end) stop = end;
    float acc = 0.0f;
    for (int64_t i = k; i < stop; i += 2) {
      const uint8_t* pair = panel + i / 2 * 2 * kPanel + PackedE4M3At(lane, 0);
      const float w0 = E4M3BitsToFloat(UnpackedE4M3(pair[0]));
      const float w1 = E4M3BitsToFloat(UnpackedE4M3(pair[1]));
      const float a0 = LoadFloat(p.a, p.a_type, row * p.lda + i);
      const float a1 = i + 1 < stop ? LoadFloat(p.a, p.a_type, row * p.lda + i + 1) : 0.0f;
      acc = fmaf(a0, w0, fmaf(a1, w1, acc));
    }
    float scale = WeightScale(p, n, k);
    if (p.a_scales != nullptr) scale = p.a_scales[row * p.lda_scales + *group] * scale;
    *group += 1;
    total = fmaf(scale, acc, total);
    k = stop;
  }
  return total;
}

// grid: (panels of 32 outputs, groups of rows); block: (32 outputs, kRowsPerBlock rows).
__global__ void Fp8MatMulKernel(Params p) {
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kPanel + lane;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kRowsPerBlock + threadIdx.y;
  if (n >= p.n || row >= p.m) return;
  const int64_t pairs = (p.k + 1) / 2;
  const uint8_t* panel = p.w + static_cast<int64_t>(blockIdx.x) * pairs * kPanel * 2;
  const int64_t step = p.segment_k > 0 ? p.segment_k : p.k;
  float sums[kMaxSegments];
  int segments = 0;
  int64_t group = 0;
  for (int64_t begin = 0; begin < p.k; begin += step) {
    const int64_t end = begin + step < p.k ? begin + step : p.k;
    sums[segments++] = Segment(p, row, n, panel, lane, begin, end, &group);
  }
  // The balanced tree: segments are a power of two.
  for (int width = 1; width < segments; width *= 2) {
    for (int i = 0; i + width < segments; i += 2 * width) sums[i] = sums[i] + sums[i + width];
  }
  StoreFloat(p.c, p.c_type, row * p.ldc + n, sums[0]);
}

}  // namespace

absl::Status Fp8MatMul(const MatMulArgs& args, cudaStream_t stream) {
  const PackedMatrix& w = args.w[0];
  if (args.w.size() != 1 || w.dtype != DType::kF8E4M3) {
    return absl::UnimplementedError(absl::StrCat("MatMul on CUDA: ", args.w.size(), " matrices of ",
                                                 Name(w.dtype), "; one of F8_E4M3 works"));
  }
  const int64_t segments = args.segment_k > 0 ? (w.k + args.segment_k - 1) / args.segment_k : 1;
  if (segments > kMaxSegments || (segments & (segments - 1)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("MatMul on CUDA: ", segments, " segments; a power of two up to 16 works"));
  }
  const Params params{args.m,
                      w.n,
                      w.k,
                      args.a,
                      args.a_type,
                      args.lda,
                      static_cast<const uint8_t*>(w.data),
                      w.scales,
                      w.scale_stride_n,
                      w.scale_stride_k,
                      w.block_n,
                      w.block_k,
                      w.phase_n,
                      w.phase_k,
                      args.segment_k,
                      args.a_scales,
                      args.lda_scales,
                      args.c,
                      args.c_type,
                      args.ldc};
  const dim3 grid(static_cast<unsigned>((w.n + kPanel - 1) / kPanel),
                  static_cast<unsigned>((args.m + kRowsPerBlock - 1) / kRowsPerBlock));
  return Launch(Fp8MatMulKernel, grid, dim3(kPanel, kRowsPerBlock), 0, stream, params);
}

}  // namespace whalepod::cuda
