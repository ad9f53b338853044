#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"
#include "tests/kernels/product_reference.h"

namespace whalepod {
namespace {

using Random = std::mt19937;

// Mostly ordinary numbers; some zeros, denormals, large and tiny ones.
float RandomFloat(Random& random) {
  const float sign = random() % 2 ? -1.0f : 1.0f;
  const float x = sign * (1.0f + static_cast<float>(random() % 4096) / 4096);
  switch (random() % 40) {
    case 0:
      return sign * 0.0f;
    case 1:
      return std::ldexp(x, -130);
    case 2:
      return std::ldexp(x, -75);
    case 3:
      return std::ldexp(x, 30);
    default:
      return std::ldexp(x, static_cast<int>(random() % 8) - 4);
  }
}

struct Weights {
  PlainMatrix plain;
  std::vector<uint8_t> packed;
  std::vector<float> scales;
  // The same, with the scales turned: as a transposed copy has them.
  void TurnScales(int64_t blocks_n, int64_t blocks_k) {
    std::vector<float> turned(scales.size());
    for (int64_t i = 0; i < blocks_n; ++i) {
      for (int64_t j = 0; j < blocks_k; ++j) turned[j * blocks_n + i] = scales[i * blocks_k + j];
    }
    scales = turned;
    plain.packed.scale_stride_n = 1;
    plain.packed.scale_stride_k = blocks_n;
    plain.packed.scales = scales.data();
  }
};

struct Blocks {
  int32_t block_n = 128, block_k = 128, phase_n = 0, phase_k = 0;
};

// All of a matrix's codes are random; NaNs only in row `nan_row` (-1: none). Every other E4M3
// matrix has few subnormals and zeros, which have a path of their own.
std::unique_ptr<Weights> MakeWeights(DType dtype, int64_t n, int64_t k, const Blocks& blocks,
                                     Random& random, int64_t nan_row = -1) {
  auto w = std::make_unique<Weights>();
  std::vector<uint8_t> bytes(n * k * SizeOf(dtype));
  w->plain.n = n;
  w->plain.k = k;
  const bool few_subnormals = dtype == DType::kF8E4M3 && random() % 2 != 0;
  for (int64_t i = 0; i < n * k; ++i) {
    float value = 0;
    if (dtype == DType::kF32) {
      value = RandomFloat(random);
      std::memcpy(&bytes[i * 4], &value, 4);
    } else if (dtype == DType::kBF16) {
      const BF16 rounded = ToBF16(RandomFloat(random));
      value = ToFloat(rounded);
      std::memcpy(&bytes[i * 2], &rounded, 2);
    } else if (dtype == DType::kF16) {
      uint16_t bits = static_cast<uint16_t>(random());
      if ((bits & 0x7c00) == 0x7c00) bits &= 0x83ff;  // no infinity or NaN
      value = F16ToFloat(bits);
      std::memcpy(&bytes[i * 2], &bits, 2);
    } else {
      uint8_t code = static_cast<uint8_t>(random());
      if (few_subnormals && (code & 0x78) == 0 && random() % 64 != 0) code ^= 0x48;
      if ((code & 0x7f) == 0x7f && i / k != nan_row) code ^= 1;
      value = F8E4M3ToFloat(code);
      bytes[i] = code;
    }
    w->plain.values.push_back(value);
  }
  w->packed.resize(PackedBytes(dtype, n, k));
  PackRows(dtype, bytes.data(), k, 0, n, n, k, w->packed.data());
  PackedMatrix& packed = w->plain.packed;
  packed = {.dtype = dtype, .n = n, .k = k, .data = w->packed.data()};
  if (dtype == DType::kF8E4M3) {
    w->plain.scaled = true;
    const int64_t blocks_k = (k + blocks.phase_k - 1) / blocks.block_k + 1;
    const int64_t blocks_n = (n + blocks.phase_n - 1) / blocks.block_n + 1;
    for (int64_t i = 0; i < blocks_n * blocks_k; ++i) {
      w->scales.push_back(std::ldexp(1.0f + static_cast<float>(random() % 999) / 999, -7));
    }
    packed.scales = w->scales.data();
    packed.scale_stride_n = blocks_k;
    packed.block_n = blocks.block_n;
    packed.block_k = blocks.block_k;
    packed.phase_n = blocks.phase_n;
    packed.phase_k = blocks.phase_k;
    if (random() % 2) w->TurnScales(blocks_n, blocks_k);
  }
  return w;
}

// Activations, rows `ld` apart, and their exact values.
struct Rows {
  DType type;
  int64_t ld;
  std::vector<float> values;
  std::vector<BF16> rounded;

  Rows(DType type, int64_t rows, int64_t k, Random& random) : type(type), ld(k + 5) {
    for (int64_t i = 0; i < rows * ld; ++i) {
      values.push_back(RandomFloat(random));
      rounded.push_back(ToBF16(values.back()));
      if (type == DType::kBF16) values.back() = ToFloat(rounded.back());
    }
  }
  const void* data() const {
    return type == DType::kF32 ? static_cast<const void*>(values.data()) : rounded.data();
  }
};

struct Device {
  std::string name;
  std::unique_ptr<Backend> backend;
};

// Every instruction path the processor has, with one and two threads.
const std::vector<Device>& Devices() {
  static const auto* devices = [] {
    auto* list = new std::vector<Device>;
    for (IsaPath isa : {IsaPath::kPortable, IsaPath::kAvx2, IsaPath::kAvx512}) {
      for (int threads : {1, 2}) {
        auto backend = CreateCpuBackend({.threads = threads, .isa = isa});
        if (!backend.ok()) continue;
        const std::string name = (*backend)->InstructionPath() + " x" + std::to_string(threads);
        list->push_back({name, *std::move(backend)});
      }
    }
    return list;
  }();
  return *devices;
}

// Both NaN, or the same bits.
bool Same(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

// The outputs of a product in F32 or BF16, with a canary between rows.
struct Outputs {
  DType type;
  int64_t ld;
  std::vector<float> values;
  std::vector<BF16> rounded;

  Outputs(DType type, int64_t rows, int64_t n)
      : type(type), ld(n + 3), values(rows * ld, -77.0f), rounded(rows * ld, ToBF16(-77.0f)) {}
  void* data() { return type == DType::kF32 ? static_cast<void*>(values.data()) : rounded.data(); }
  float At(int64_t row, int64_t i) const {
    return type == DType::kF32 ? values[row * ld + i] : ToFloat(rounded[row * ld + i]);
  }
  float Expected(float x) const { return type == DType::kF32 ? x : ToFloat(ToBF16(x)); }
};

struct Case {
  DType w_type, a_type, c_type;
  int64_t m, n, k, segment_k;
  Blocks blocks;
};

void ExpectMatMul(const Case& c, uint32_t seed) {
  SCOPED_TRACE(testing::Message() << Name(c.w_type) << " x " << Name(c.a_type) << " -> "
                                  << Name(c.c_type) << " m " << c.m << " n " << c.n << " k " << c.k
                                  << " segment " << c.segment_k << " phases " << c.blocks.phase_n
                                  << "," << c.blocks.phase_k);
  Random random(seed);
  const auto w = MakeWeights(c.w_type, c.n, c.k, c.blocks, random, c.n / 2);
  const Rows rows(c.a_type, c.m, c.k, random);
  std::vector<float> expected;
  for (int64_t r = 0; r < c.m; ++r) {
    for (int64_t i = 0; i < c.n; ++i) {
      expected.push_back(
          ReferenceProduct(w->plain, rows.values.data() + r * rows.ld, i, c.segment_k, nullptr));
    }
  }
  for (const Device& device : Devices()) {
    SCOPED_TRACE(device.name);
    Outputs out(c.c_type, c.m, c.n);
    MatMulArgs args;
    args.m = c.m;
    args.a = rows.data();
    args.a_type = c.a_type;
    args.lda = rows.ld;
    args.w = absl::MakeConstSpan(&w->plain.packed, 1);
    args.c = out.data();
    args.c_type = c.c_type;
    args.ldc = out.ld;
    args.segment_k = c.segment_k;
    ASSERT_TRUE(device.backend->MatMul(args).ok());
    for (int64_t r = 0; r < c.m; ++r) {
      for (int64_t i = 0; i < out.ld; ++i) {
        const float want = i < c.n ? out.Expected(expected[r * c.n + i]) : -77.0f;
        ASSERT_TRUE(Same(out.At(r, i), want))
            << "row " << r << " output " << i << ": " << out.At(r, i) << " instead of " << want;
      }
    }
  }
}

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};

TEST(MatMul, EqualsTheDefinitionForEveryTypeAndRowCount) {
  uint32_t seed = 1;
  for (DType w_type : kWeightTypes) {
    for (DType a_type : {DType::kF32, DType::kBF16}) {
      for (DType c_type : {DType::kF32, DType::kBF16}) {
        for (int64_t m : {1, 2, 3, 7, 16, 33}) {
          ExpectMatMul({w_type, a_type, c_type, m, 45, 200, 0, {}}, ++seed);
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
}

TEST(MatMul, EqualsTheDefinitionForRaggedShapesAndSegments) {
  uint32_t seed = 1000;
  for (DType w_type : kWeightTypes) {
    for (int64_t m : {1, 5, 14}) {
      for (int64_t n : {1, 32, 70}) {
        for (int64_t k : {1, 2, 33, 129, 384}) {
          for (int64_t segment_k : {0, 32, 96}) {
            ExpectMatMul({w_type, DType::kBF16, DType::kF32, m, n, k, segment_k, {}}, ++seed);
            if (testing::Test::HasFailure()) return;
          }
        }
      }
    }
  }
}

TEST(MatMul, ScaleBlocksMayStartAndEndAnywhere) {
  uint32_t seed = 2000;
  for (int64_t m : {1, 4, 20}) {
    for (int32_t phase_n : {0, 17, 127}) {
      for (int32_t phase_k : {0, 1, 64, 127}) {
        for (int64_t segment_k : {0, 64}) {
          const Blocks blocks{.phase_n = phase_n, .phase_k = phase_k};
          ExpectMatMul({DType::kF8E4M3, DType::kBF16, DType::kF32, m, 75, 333, segment_k, blocks},
                       ++seed);
          if (testing::Test::HasFailure()) return;
        }
      }
    }
  }
  for (const Blocks& blocks : {Blocks{16, 16, 3, 5}, Blocks{7, 9, 6, 8}, Blocks{300, 300, 1, 2}}) {
    ExpectMatMul({DType::kF8E4M3, DType::kF32, DType::kF32, 3, 75, 333, 0, blocks}, ++seed);
  }
}

TEST(MatMul, ManyRowsAndLongRowsAreBlockedWithoutChangingBits) {
  uint32_t seed = 3000;
  for (DType w_type : {DType::kBF16, DType::kF8E4M3}) {
    ExpectMatMul({w_type, DType::kBF16, DType::kF32, 251, 40, 130, 0, {}}, ++seed);
    ExpectMatMul({w_type, DType::kBF16, DType::kF32, 40, 33, 2500, 160, {}}, ++seed);
    ExpectMatMul({w_type, DType::kBF16, DType::kF32, 13, 560, 100, 0, {}}, ++seed);
  }
}

// One node of the tree on its own: what a tensor-parallel rank computes, from its slice of the
// columns, which starts inside a scale block.
TEST(MatMul, SegmentsOfARankAreANodeOfTheWholeTree) {
  constexpr int64_t kN = 33, kK = 384, kSegment = 96, kHalf = 192;
  for (DType w_type : {DType::kF32, DType::kF8E4M3}) {
    Random random(4000);
    const auto whole = MakeWeights(w_type, kN, kK, {}, random);
    const Rows rows(DType::kF32, 1, kK, random);
    // F8_E4M3 codes survive the way over F32 exactly.
    const int64_t size = SizeOf(w_type);
    std::vector<uint8_t> plain(kN * kK * size);
    for (int64_t i = 0; i < kN * kK; ++i) {
      const float value = whole->plain.values[i];
      if (size == 4) std::memcpy(&plain[i * 4], &value, 4);
      if (size == 1) plain[i] = FloatToF8E4M3(value);
    }
    const auto product = [&](const Device& device, const PackedMatrix& w, const float* a) {
      std::vector<float> c(kN);
      MatMulArgs args;
      args.m = 1;
      args.a = a;
      args.a_type = DType::kF32;
      args.lda = kK;
      args.w = absl::MakeConstSpan(&w, 1);
      args.c = c.data();
      args.ldc = kN;
      args.segment_k = kSegment;
      EXPECT_TRUE(device.backend->MatMul(args).ok());
      return c;
    };
    for (const Device& device : Devices()) {
      SCOPED_TRACE(device.name);
      std::vector<std::vector<float>> halves;
      for (int64_t half : {0, 1}) {
        PackedMatrix part = whole->plain.packed;
        std::vector<uint8_t> packed(PackedBytes(w_type, kN, kHalf));
        PackRows(w_type, plain.data() + half * kHalf * size, kK, 0, kN, kN, kHalf, packed.data());
        part.k = kHalf;
        part.data = packed.data();
        if (part.scales != nullptr) {
          part.scales += half * kHalf / 128 * part.scale_stride_k;
          part.phase_k = static_cast<int32_t>(half * kHalf % 128);
        }
        halves.push_back(product(device, part, rows.values.data() + half * kHalf));
      }
      const std::vector<float> sum = product(device, whole->plain.packed, rows.values.data());
      for (int64_t i = 0; i < kN; ++i) {
        ASSERT_TRUE(Same(sum[i], halves[0][i] + halves[1][i])) << i;
      }
    }
  }
}

TEST(MatMul, BatchEntriesHaveTheirOwnRowsWeightsAndPhases) {
  constexpr int64_t kBatch = 3, kM = 4, kN = 40, kK = 72;
  for (DType w_type : kWeightTypes) {
    Random random(5000);
    std::vector<std::unique_ptr<Weights>> weights;
    std::vector<PackedMatrix> packed;
    for (int32_t b = 0; b < kBatch; ++b) {
      weights.push_back(
          MakeWeights(w_type, kN, kK, {.phase_n = 50 * b, .phase_k = 31 * b}, random));
      packed.push_back(weights.back()->plain.packed);
    }
    // Heads of a row lie beside each other: [m][batch][k].
    const Rows rows(DType::kBF16, kM, kBatch * kK, random);
    for (const Device& device : Devices()) {
      SCOPED_TRACE(device.name);
      Outputs out(DType::kF32, kM, kBatch * kN);
      MatMulArgs args;
      args.m = kM;
      args.a = rows.data();
      args.lda = rows.ld;
      args.a_batch_stride = kK;
      args.w = packed;
      args.c = out.data();
      args.ldc = out.ld;
      args.c_batch_stride = kN;
      ASSERT_TRUE(device.backend->MatMul(args).ok());
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int64_t r = 0; r < kM; ++r) {
          for (int64_t i = 0; i < kN; ++i) {
            const float want = ReferenceProduct(
                weights[b]->plain, rows.values.data() + r * rows.ld + b * kK, i, 0, nullptr);
            ASSERT_TRUE(Same(out.At(r, b * kN + i), want)) << b << " " << r << " " << i;
          }
        }
      }
    }
  }
}

TEST(MatMul, ScalesOfActivationsMultiplyThoseOfWeights) {
  constexpr int64_t kM = 14, kN = 40, kK = 300, kSegment = 96;
  for (int32_t phase_k : {0, 40}) {
    Random random(6000);
    const auto w = MakeWeights(DType::kF8E4M3, kN, kK, {.phase_k = phase_k}, random);
    const Rows rows(DType::kBF16, kM, kK, random);
    const int64_t groups = QuantizeGroups(kK, 128, phase_k, kSegment);
    std::vector<float> scales;
    for (int64_t i = 0; i < kM * (groups + 1); ++i) {
      scales.push_back(1.0f + static_cast<float>(random() % 1000) / 1000);
    }
    for (const Device& device : Devices()) {
      SCOPED_TRACE(device.name);
      Outputs out(DType::kF32, kM, kN);
      MatMulArgs args;
      args.m = kM;
      args.a = rows.data();
      args.lda = rows.ld;
      args.w = absl::MakeConstSpan(&w->plain.packed, 1);
      args.c = out.data();
      args.ldc = out.ld;
      args.segment_k = kSegment;
      args.a_scales = scales.data();
      args.lda_scales = groups + 1;
      ASSERT_TRUE(device.backend->MatMul(args).ok());
      for (int64_t r = 0; r < kM; ++r) {
        for (int64_t i = 0; i < kN; ++i) {
          const float want = ReferenceProduct(w->plain, rows.values.data() + r * rows.ld, i,
                                              kSegment, scales.data() + r * (groups + 1));
          ASSERT_TRUE(Same(out.At(r, i), want)) << r << " " << i;
        }
      }
    }
  }
}

// Slots of experts, some without any, rows chosen by index, W8A16 and W8A8.
TEST(GroupedMatMul, EachSlotIsItsRowTimesItsExpert) {
  constexpr int64_t kN = 70, kK = 140, kRows = 9;
  const std::vector<int32_t> offsets = {2, 2, 5, 6, 40, 40, 41};
  const int64_t experts = static_cast<int64_t>(offsets.size()) - 1, slots = offsets.back();
  for (DType w_type : kWeightTypes) {
    for (bool indexed : {false, true}) {
      for (bool scaled : {false, true}) {
        if (scaled && w_type != DType::kF8E4M3) continue;
        Random random(7000);
        std::vector<std::unique_ptr<Weights>> weights;
        std::vector<PackedMatrix> packed;
        for (int64_t g = 0; g < experts; ++g) {
          weights.push_back(MakeWeights(w_type, kN, kK, {}, random));
          packed.push_back(weights.back()->plain.packed);
        }
        const Rows rows(DType::kBF16, indexed ? kRows : slots, kK, random);
        std::vector<int32_t> index(slots);
        for (int64_t s = 0; s < slots; ++s) {
          index[s] = indexed ? static_cast<int32_t>(random() % kRows) : static_cast<int32_t>(s);
        }
        std::vector<float> scales;
        for (int64_t i = 0; i < slots * 2; ++i) {
          scales.push_back(1.0f + static_cast<float>(random() % 1000) / 1000);
        }
        for (const Device& device : Devices()) {
          SCOPED_TRACE(testing::Message() << device.name << " " << Name(w_type) << " " << indexed);
          Outputs out(DType::kBF16, slots, kN);
          GroupedMatMulArgs args;
          args.w = packed;
          args.offsets = offsets.data();
          args.row_index = indexed ? index.data() : nullptr;
          args.a = rows.data();
          args.lda = rows.ld;
          args.c = out.data();
          args.c_type = DType::kBF16;
          args.ldc = out.ld;
          if (scaled) args.a_scales = scales.data();
          args.lda_scales = 2;
          ASSERT_TRUE(device.backend->GroupedMatMul(args).ok());
          for (int64_t g = 0; g < experts; ++g) {
            for (int64_t s = offsets[g]; s < offsets[g + 1]; ++s) {
              for (int64_t i = 0; i < kN; ++i) {
                const float want = out.Expected(
                    ReferenceProduct(weights[g]->plain, rows.values.data() + index[s] * rows.ld, i,
                                     0, scaled ? scales.data() + index[s] * 2 : nullptr));
                ASSERT_TRUE(Same(out.At(s, i), want)) << "slot " << s << " output " << i;
              }
            }
          }
          EXPECT_EQ(out.At(0, 0), -77.0f);
          EXPECT_EQ(out.At(1, kN - 1), -77.0f);
        }
      }
    }
  }
}

TEST(MatMul, RefusesWhatDoesNotFitNamingBothValues) {
  Backend& backend = *Devices()[0].backend;
  Random random(8000);
  const auto w = MakeWeights(DType::kF8E4M3, 8, 16, {}, random);
  std::vector<PackedMatrix> matrices = {w->plain.packed, w->plain.packed};
  std::vector<BF16> a(64);
  std::vector<float> c(64);
  MatMulArgs args;
  args.m = 2;
  args.a = a.data();
  args.lda = 15;
  args.w = absl::MakeConstSpan(matrices.data(), 1);
  args.c = c.data();
  args.ldc = 8;
  EXPECT_EQ(backend.MatMul(args).message(), "MatMul: lda: expected at least 16, found 15");
  args.lda = 16;
  EXPECT_TRUE(backend.MatMul(args).ok());
  matrices[1].k = 14;
  args.w = matrices;
  EXPECT_EQ(backend.MatMul(args).message(), "MatMul: w[1].k: expected 16, found 14");
  args.m = 0;
  matrices[1].k = 16;
  args.a = nullptr;
  EXPECT_TRUE(backend.MatMul(args).ok());
}

}  // namespace
}  // namespace whalepod
