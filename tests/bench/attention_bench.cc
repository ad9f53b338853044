// Attention of generated tokens over the latent cache (absorbed form), against what the machine
// allows: the longer of reading every visible latent once and of its multiply-adds, both measured
// alternately with it. Caches lie in blocks in random order; each call reads another one of those
// that 64 MiB hold, as layers do. Two threads, or WHALEPOD_BENCH_THREADS.
#include <benchmark/benchmark.h>
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "tests/bench/read_bandwidth.h"
#include "tests/bench/timing.h"

namespace whalepod {
namespace {

constexpr int64_t kBlockTokens = 64;
constexpr int64_t kCacheBytes = 64 << 20;

// `rounds` times 16 independent multiply-adds of 16 numbers.
__attribute__((target("avx512f"))) float MultiplyAdds512(int64_t rounds) {
  __m512 sum[16];
  for (__m512& s : sum) s = _mm512_set1_ps(1.0f);
  const __m512 factor = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (__m512& s : sum) s = _mm512_fmadd_ps(s, factor, factor);
  }
  float total = 0;
  for (const __m512& s : sum) total += _mm512_cvtss_f32(s);
  return total;
}
// The same of 8 numbers, twice.
__attribute__((target("avx2,fma"))) float MultiplyAdds256(int64_t rounds) {
  __m256 sum[8];
  for (__m256& s : sum) s = _mm256_set1_ps(1.0f);
  const __m256 factor = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < 4 * rounds; ++i) {
#pragma GCC unroll 8
    for (__m256& s : sum) s = _mm256_fmadd_ps(s, factor, factor);
  }
  float total = 0;
  for (const __m256& s : sum) total += _mm256_cvtss_f32(s);
  return total;
}

// Multiply-adds on all threads of `pool`: 2^18 rounds of 256 each.
double SecondsOfMultiplyAdd(cpu::ThreadPool& pool) {
  constexpr int64_t kRounds = 1 << 18;
  const bool wide = __builtin_cpu_supports("avx512f") != 0;
  const double seconds = Seconds([&] {
    pool.ParallelFor(pool.threads(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        benchmark::DoNotOptimize(wide ? MultiplyAdds512(kRounds) : MultiplyAdds256(kRounds));
      }
    });
  });
  return seconds / (256.0 * kRounds * pool.threads());
}

// Memory at a page's start, as workers' arenas are.
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Pages = std::unique_ptr<void, Free>;
Pages AllocatePages(int64_t bytes) {
  const auto size = static_cast<size_t>((bytes + 4095) / 4096 * 4096);
  return Pages(std::aligned_alloc(4096, size));
}

struct Shape {
  const char* name;
  int64_t heads, lora, rope;
};

// `tokens` sequences of `context` positions each, in BF16; another layer's cache at each call.
class Attention {
 public:
  Attention(const Shape& shape, int64_t tokens, int64_t context)
      : width_(shape.lora + shape.rope),
        blocks_((context + kBlockTokens - 1) / kBlockTokens),
        layer_bytes_(tokens * blocks_ * kBlockTokens * width_ * int64_t{sizeof(BF16)}),
        layers_(std::max<int64_t>(1, kCacheBytes / layer_bytes_)),
        tables_(tokens * blocks_),
        positions_(tokens, static_cast<int32_t>(context - 1)),
        q_(tokens * shape.heads * width_, ToBF16(0.25f)),
        out_(tokens * shape.heads * shape.lora),
        cache_(AllocatePages(layers_ * layer_bytes_)) {
    std::mt19937 random(1);
    auto* latents = static_cast<BF16*>(cache_.get());
    std::generate_n(latents, layers_ * layer_bytes_ / int64_t{sizeof(BF16)},
                    [&] { return ToBF16(static_cast<float>(random() % 4096) / 4096.0f); });
    std::iota(tables_.begin(), tables_.end(), 0);
    std::shuffle(tables_.begin(), tables_.end(), random);
    for (int64_t t = 0; t < tokens; ++t) rows_.push_back(tables_.data() + t * blocks_);
    auto backend = CreateCpuBackend({.threads = BenchThreads()});
    CHECK(backend.ok());
    backend_ = *std::move(backend);
    const int64_t scratch_bytes = backend_->AttentionAbsorbedScratch(context);
    scratch_ = AllocatePages(scratch_bytes);
    args_ = {.tokens = tokens,
             .heads = shape.heads,
             .lora = shape.lora,
             .rope = shape.rope,
             .q = q_.data(),
             .ldq = shape.heads * width_,
             .positions = positions_.data(),
             .block_tables = rows_.data(),
             .cache = {.type = DType::kBF16,
                       .block_tokens = kBlockTokens,
                       .width = width_,
                       .block_stride = kBlockTokens * width_,
                       .blocks = tokens * blocks_},
             .scale = 0.1f,
             .out = out_.data(),
             .ldo = shape.heads * shape.lora,
             .scratch = scratch_.get(),
             .scratch_bytes = scratch_bytes};
  }
  // The cache that the next Run() reads.
  const uint8_t* cache() const {
    return static_cast<const uint8_t*>(cache_.get()) + layer_ * layer_bytes_;
  }
  int64_t bytes() const { return layer_bytes_; }
  void Run() {
    args_.cache.base = const_cast<uint8_t*>(cache());
    CHECK(backend_->AttentionAbsorbed(args_).ok());
    layer_ = (layer_ + 1) % layers_;
  }

 private:
  const int64_t width_, blocks_, layer_bytes_, layers_;
  int64_t layer_ = 0;
  std::vector<int32_t> tables_;
  std::vector<int32_t> positions_;
  std::vector<const int32_t*> rows_;
  std::vector<BF16> q_, out_;
  Pages cache_, scratch_;
  std::unique_ptr<Backend> backend_;
  AttentionAbsorbedArgs args_;
};

void Absorbed(benchmark::State& state, const Shape& shape, int64_t tokens, int64_t context) {
  Attention attention(shape, tokens, context);
  cpu::ThreadPool pool(BenchThreads());
  MemoryReader reader(attention.cache(), attention.bytes(), pool);
  const double multiply_adds = static_cast<double>(tokens * context * shape.heads) *
                               static_cast<double>(2 * shape.lora + shape.rope);
  std::vector<double> ours, reads, computes;
  for (auto _ : state) {
    reads.push_back(Seconds([&] { reader.Read(attention.cache(), attention.bytes()); }));
    computes.push_back(multiply_adds * SecondsOfMultiplyAdd(pool));
    attention.Run();  // the next one's cache has not been read
    ours.push_back(Seconds([&] { attention.Run(); }));
    state.SetIterationTime(ours.back());
  }
  state.counters["of_compute"] = Median(computes) / Median(ours);
  state.counters["of_read"] = Median(reads) / Median(ours);
}

void Register() {
  const Shape shapes[] = {{"r1", 128, 512, 64}, {"r1_tp8", 16, 512, 64}, {"r1-tiny", 8, 128, 16}};
  for (const Shape& shape : shapes) {
    for (const auto& [tokens, context] : {std::pair<int64_t, int64_t>{32, 256}, {4, 4096}}) {
      benchmark::RegisterBenchmark(
          absl::StrCat("absorbed/", shape.name, "/", tokens, "x", context).c_str(), Absorbed, shape,
          tokens, context)
          ->UseManualTime()
          ->Unit(benchmark::kMillisecond)
          ->Iterations(shape.heads > 64 ? 20 : 200);
    }
  }
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  whalepod::Register();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
