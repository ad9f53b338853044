// Products over DeepSeek-R1's shapes: decode against the machine's read bandwidth, prefill against
// oneDNN's BF16 product, each pair measured alternately in the same run. Two threads, or
// WHALEPOD_BENCH_THREADS.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "dnnl.hpp"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/ops.h"
#include "tests/bench/huge_pages.h"
#include "tests/bench/read_bandwidth.h"
#include "tests/bench/timing.h"

namespace whalepod {
namespace {

// Three times the largest L3, so that weights come from memory.
constexpr int64_t kArenaBytes = int64_t{3} << 28;

// Memory that all benchmarks take their weights from, full of small numbers in any type. One line
// of packed E4M3 in 64 has a subnormal: quantised in blocks of 128 x 128, normal weights have one
// in 0.7 % of their lines, those of Student's t with 5 degrees of freedom in 2.3 %.
uint8_t* Arena() {
  static uint8_t* arena = [] {
    auto* words = reinterpret_cast<uint32_t*>(HugePages(kArenaBytes));
    uint32_t state = 1;
    for (int64_t i = 0; i < kArenaBytes / 4; ++i) {
      state = state * 1664525u + 1013904223u;
      words[i] = (state & 0x83878387u) | 0x3c343c34u;
      if (i % 16 == 0 && state >> 26 == 0) words[i] &= 0xffffff38u;
    }
    return reinterpret_cast<uint8_t*>(words);
  }();
  return arena;
}

// What one call multiplies.
enum class Kind { kOne, kGrouped, kBatch };

// One product, or several side by side: of `count` experts with `m` rows each, or of `count` heads.
// Matrices follow each other through the arena.
class Products {
 public:
  Products(Kind kind, int64_t count, DType dtype, int64_t m, int64_t n, int64_t k)
      : kind_(kind), count_(count), one_bytes_(PackedBytes(dtype, n, k)) {
    scales_.assign((n / 128 + 2) * (k / 128 + 2), 1.0f);
    a_.assign(count * m * k, ToBF16(0.5f));
    c_.resize(count * m * n);
    auto backend = CreateCpuBackend({.threads = BenchThreads()});
    CHECK(backend.ok());
    backend_ = *std::move(backend);
    const PackedMatrix w = {.dtype = dtype,
                            .n = n,
                            .k = k,
                            .scales = scales_.data(),
                            .scale_stride_n = k / 128 + 1,
                            .block_n = 128,
                            .block_k = 128};
    w_.assign(count, w);
    for (int64_t g = 0; g <= count; ++g) offsets_.push_back(static_cast<int32_t>(g * m));
    args_ = {.m = m,
             .a = a_.data(),
             .lda = count * k,
             .a_batch_stride = k,
             .w = w_,
             .c_batch_stride = n,
             .c = c_.data(),
             .ldc = count * n};
    grouped_ = {
        .w = w_, .offsets = offsets_.data(), .a = a_.data(), .lda = k, .c = c_.data(), .ldc = n};
  }
  int64_t bytes() const { return count_ * one_bytes_; }
  int64_t matrices() const { return std::max<int64_t>(1, kArenaBytes / bytes()); }
  void Multiply(int64_t matrix) {
    const uint8_t* first = Arena() + matrix % matrices() * bytes();
    for (int64_t i = 0; i < count_; ++i) w_[i].data = first + i * one_bytes_;
    CHECK((kind_ == Kind::kGrouped ? backend_->GroupedMatMul(grouped_) : backend_->MatMul(args_))
              .ok());
  }

 private:
  const Kind kind_;
  const int64_t count_, one_bytes_;
  std::vector<float> scales_;
  std::vector<BF16> a_;
  std::vector<float> c_;
  std::vector<int32_t> offsets_;
  std::unique_ptr<Backend> backend_;
  std::vector<PackedMatrix> w_;
  MatMulArgs args_;
  GroupedMatMulArgs grouped_;
};

void Decode(benchmark::State& state, Kind kind, int64_t count, DType dtype, int64_t m, int64_t n,
            int64_t k) {
  Products products(kind, count, dtype, m, n, k);
  cpu::ThreadPool pool(BenchThreads());
  MemoryReader reader(Arena(), kArenaBytes, pool);
  const int64_t half = products.matrices() / 2;
  std::vector<double> ours, reads;
  for (auto _ : state) {
    double total = 0;
    for (int64_t i = 0; i < products.matrices(); ++i) {
      const int64_t other = (i + half) % products.matrices();
      reads.push_back(
          Seconds([&] { reader.Read(Arena() + other * products.bytes(), products.bytes()); }));
      ours.push_back(Seconds([&] { products.Multiply(i); }));
      total += ours.back();
    }
    state.SetIterationTime(total);
  }
  const double bytes = static_cast<double>(products.bytes());
  state.counters["GB/s"] = bytes / Median(ours) * 1e-9;
  state.counters["read_GB/s"] = bytes / Median(reads) * 1e-9;
  state.counters["ratio"] = Median(reads) / Median(ours);
}

// oneDNN's product of BF16 rows and weights in the layout it likes best, to F32.
class OneDnnProduct {
 public:
  OneDnnProduct(int64_t m, int64_t n, int64_t k) : engine_(dnnl::engine::kind::cpu, 0) {
    using Tag = dnnl::memory::format_tag;
    using Type = dnnl::memory::data_type;
    stream_ = dnnl::stream(engine_);
    const dnnl::memory::desc a({m, k}, Type::bf16, Tag::ab);
    const dnnl::memory::desc w({k, n}, Type::bf16, Tag::any);
    const dnnl::memory::desc c({m, n}, Type::f32, Tag::ab);
    const dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(a, w, c), engine_);
    for (const auto& [index, memory] : {std::pair(DNNL_ARG_SRC, desc.src_desc()),
                                        std::pair(DNNL_ARG_WEIGHTS, desc.weights_desc()),
                                        std::pair(DNNL_ARG_DST, desc.dst_desc())}) {
      dnnl::memory buffer(memory, engine_);
      auto* values = static_cast<uint16_t*>(buffer.get_data_handle());
      std::fill(values, values + memory.get_size() / 2, uint16_t{0x3f00});
      args_.emplace(index, buffer);
    }
    product_ = dnnl::matmul(desc);
    implementation_ = desc.impl_info_str();
  }
  void Multiply() {
    product_.execute(stream_, args_);
    stream_.wait();
  }
  const std::string& implementation() const { return implementation_; }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::matmul product_;
  std::unordered_map<int, dnnl::memory> args_;
  std::string implementation_;
};

void Prefill(benchmark::State& state, DType dtype, int64_t m, int64_t n, int64_t k) {
  Products products(Kind::kOne, 1, dtype, m, n, k);
  OneDnnProduct referee(m, n, k);
  std::vector<double> ours, theirs;
  for (auto _ : state) {
    theirs.push_back(Seconds([&] { referee.Multiply(); }));
    ours.push_back(Seconds([&] { products.Multiply(static_cast<int64_t>(ours.size())); }));
    state.SetIterationTime(ours.back());
  }
  const double flops = 2.0 * static_cast<double>(m * n * k);
  state.counters["GFLOP/s"] = flops / Median(ours) * 1e-9;
  state.counters["oneDNN_GFLOP/s"] = flops / Median(theirs) * 1e-9;
  state.counters["ratio"] = Median(theirs) / Median(ours);
  state.SetLabel(referee.implementation());
}

struct Shape {
  int64_t n, k;
};

void RegisterDecode(const std::string& name, Kind kind, int64_t count, DType dtype, int64_t m,
                    const Shape& s) {
  benchmark::RegisterBenchmark(
      absl::StrCat(name, "/", Name(dtype), "/", count > 1 ? absl::StrCat(count, "x") : "", m, "x",
                   s.n, "x", s.k)
          .c_str(),
      Decode, kind, count, dtype, m, s.n, s.k)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond)
      ->Iterations(2);
}

void Register() {
  const Shape shapes[] = {{2048, 7168},  {7168, 2048}, {1536, 7168},
                          {24576, 1536}, {576, 7168},  {7168, 16384}};
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const Shape& s : shapes) {
      for (int64_t m : {1, 4}) RegisterDecode("decode", Kind::kOne, 1, dtype, m, s);
      for (int64_t m : {64, 512}) {
        if (dtype == DType::kF32) continue;
        benchmark::RegisterBenchmark(
            absl::StrCat("prefill/", Name(dtype), "/", m, "x", s.n, "x", s.k).c_str(), Prefill,
            dtype, m, s.n, s.k)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(8);
      }
    }
    // A token's eight experts; the heads' halves of kv_b, as absorbed attention uses them.
    RegisterDecode("decode_experts", Kind::kGrouped, 8, dtype, 1, {2048, 7168});
    RegisterDecode("decode_heads", Kind::kBatch, 128, dtype, 1, {512, 128});
    RegisterDecode("decode_heads", Kind::kBatch, 128, dtype, 1, {128, 512});
  }
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) {
  // OpenMP, whose threads oneDNN uses, reads its settings when it is loaded. Its threads must not
  // spin on a processor while ours work.
  if (std::getenv("GOMP_SPINCOUNT") == nullptr) {
    setenv("OMP_NUM_THREADS", std::to_string(whalepod::BenchThreads()).c_str(), 1);
    setenv("GOMP_SPINCOUNT", "10000", 1);
    execv("/proc/self/exe", argv);
  }
  benchmark::Initialize(&argc, argv);
  whalepod::Register();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
