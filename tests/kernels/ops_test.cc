// The small ops, bit for bit against plain arithmetic on every path and with 1 and 2 threads.
#include "tests/kernels/reference.h"

namespace whalepod {
namespace {

using reference::Buffer;
using reference::ExpectSameBits;
using reference::OnEveryBackend;
using reference::Random;

// Widths around the 16 lanes and beyond one piece of any op.
constexpr int64_t kWidths[] = {1, 15, 16, 17, 64, 83, 576, 1030};

TEST(Embed, CopiesOwnRowsAndLeavesOthersAlone) {
  const int64_t rows = 7, vocab0 = 10;
  for (int64_t hidden : kWidths) {
    Random random(1);
    const std::vector<int32_t> ids = {12, 9, 16, 10, 17, 0, 12};
    const std::vector<float> values = random.Floats(rows * hidden);
    for (DType type : {DType::kF32, DType::kBF16}) {
      const Buffer table(type, values);
      std::vector<float> expected(ids.size() * static_cast<size_t>(hidden), 42.0f);
      for (size_t t = 0; t < ids.size(); ++t) {
        const int64_t row = ids[t] - vocab0;
        if (row < 0 || row >= rows) continue;
        for (int64_t i = 0; i < hidden; ++i) {
          expected[t * static_cast<size_t>(hidden) + static_cast<size_t>(i)] =
              table.Get(row * hidden + i);
        }
      }
      OnEveryBackend([&](Backend& backend) {
        std::vector<float> out(expected.size(), 42.0f);
        ASSERT_TRUE(backend
                        .Embed({.tokens = static_cast<int64_t>(ids.size()),
                                .ids = ids.data(),
                                .table = table.data(),
                                .table_type = type,
                                .vocab0 = vocab0,
                                .rows = rows,
                                .hidden = hidden,
                                .out = out.data()})
                        .ok());
        ExpectSameBits(out, expected);
      });
    }
  }
}

TEST(RmsNorm, FollowsTheLanes) {
  const int64_t tokens = 3;
  for (int64_t width : kWidths) {
    for (DType weight_type : {DType::kF32, DType::kBF16}) {
      for (DType out_type : {DType::kF32, DType::kBF16}) {
        Random random(static_cast<uint64_t>(width));
        const int64_t ldx = width + 3, ldo = width + 5;
        const std::vector<float> x = random.Floats(tokens * ldx, -30, 30);
        const Buffer weight(weight_type, random.Floats(width));
        Buffer expected(out_type, tokens * ldo);
        for (int64_t t = 0; t < tokens; ++t) {
          const float* row = x.data() + t * ldx;
          float lanes[16] = {};
          for (int64_t i = 0; i < width; ++i)
            lanes[i % 16] = std::fma(row[i], row[i], lanes[i % 16]);
          const float mean = reference::SumLanes(lanes) / static_cast<float>(width);
          const float inverse = 1.0f / std::sqrt(mean + 1e-6f);
          for (int64_t i = 0; i < width; ++i) {
            expected.Set(t * ldo + i, row[i] * inverse * weight.Get(i));
          }
        }
        OnEveryBackend([&](Backend& backend) {
          Buffer out(out_type, tokens * ldo);
          ASSERT_TRUE(backend
                          .RmsNorm({.tokens = tokens,
                                    .width = width,
                                    .x = x.data(),
                                    .ldx = ldx,
                                    .weight = weight.data(),
                                    .weight_type = weight_type,
                                    .out = out.data(),
                                    .out_type = out_type,
                                    .ldo = ldo})
                          .ok());
          ExpectSameBits(out, expected);
        });
      }
    }
  }
}

TEST(Rope, RotatesInterleavedPairs) {
  const int64_t tokens = 3, heads = 2, dim = 86, max_position = 9;
  Random random(5);
  const std::vector<float> cos = random.Floats(max_position * dim / 2);
  const std::vector<float> sin = random.Floats(max_position * dim / 2);
  const std::vector<int32_t> positions = {8, 0, 3};
  const int64_t head_stride = dim + 6, token_stride = heads * head_stride + 1;
  for (DType type : {DType::kF32, DType::kBF16}) {
    const Buffer x(type, random.Floats(tokens * token_stride));
    Buffer expected = x;
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        for (int64_t i = 0; i < dim / 2; ++i) {
          const int64_t at = t * token_stride + h * head_stride + 2 * i;
          const float c = cos[static_cast<size_t>(positions[static_cast<size_t>(t)] * dim / 2 + i)];
          const float s = sin[static_cast<size_t>(positions[static_cast<size_t>(t)] * dim / 2 + i)];
          const float real = x.Get(at) * c, imaginary = x.Get(at + 1) * s;
          expected.Set(at, real - imaginary);
          const float cross = x.Get(at) * s, straight = x.Get(at + 1) * c;
          expected.Set(at + 1, cross + straight);
        }
      }
    }
    OnEveryBackend([&](Backend& backend) {
      Buffer out = x;
      ASSERT_TRUE(backend
                      .Rope({.tokens = tokens,
                             .heads = heads,
                             .dim = dim,
                             .positions = positions.data(),
                             .cos = cos.data(),
                             .sin = sin.data(),
                             .x = out.data(),
                             .type = type,
                             .token_stride = token_stride,
                             .head_stride = head_stride})
                      .ok());
      ExpectSameBits(out, expected);
    });
  }
}

TEST(CacheWrite, PutsRowsIntoTheirSlots) {
  const int64_t tokens = 5, width = 9, block_tokens = 4, block_stride = 50, blocks = 3;
  const std::vector<int64_t> slots = {11, -1, 0, 5, 4};
  Random random(6);
  for (DType type : {DType::kF32, DType::kBF16}) {
    const int64_t ld = width + 2;
    const Buffer rows(type, random.Floats(tokens * ld));
    Buffer expected(type, std::vector<float>(static_cast<size_t>(blocks * block_stride), 7.0f));
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t slot = slots[static_cast<size_t>(t)];
      if (slot < 0) continue;
      for (int64_t i = 0; i < width; ++i) {
        expected.Set(slot / block_tokens * block_stride + slot % block_tokens * width + i,
                     rows.Get(t * ld + i));
      }
    }
    OnEveryBackend([&](Backend& backend) {
      Buffer cache(type, std::vector<float>(static_cast<size_t>(blocks * block_stride), 7.0f));
      CacheWriteArgs args;
      args.tokens = tokens;
      args.cache = {cache.data(), type, block_tokens, width, block_stride, blocks};
      args.slots = slots.data();
      args.rows = rows.data();
      args.ld = ld;
      ASSERT_TRUE(backend.CacheWrite(args).ok());
      ExpectSameBits(cache, expected);
    });
  }
}

TEST(SwiGlu, SiluOfTheGateTimesUp) {
  const int64_t rows = 3;
  for (int64_t width : kWidths) {
    for (DType type : {DType::kF32, DType::kBF16}) {
      Random random(static_cast<uint64_t>(width));
      const int64_t ld = width + 1, ldo = width + 4;
      std::vector<float> gate = random.Floats(rows * ld, -20, 20);
      gate[0] = -200.0f;
      const std::vector<float> up = random.Floats(rows * ld);
      Buffer expected(type, rows * ldo);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) {
          const size_t at = static_cast<size_t>(r * ld + i);
          expected.Set(r * ldo + i, reference::Silu(gate[at]) * up[at]);
        }
      }
      OnEveryBackend([&](Backend& backend) {
        Buffer out(type, rows * ldo);
        ASSERT_TRUE(backend
                        .SwiGlu({.rows = rows,
                                 .width = width,
                                 .gate = gate.data(),
                                 .up = up.data(),
                                 .ld = ld,
                                 .out = out.data(),
                                 .out_type = type,
                                 .ldo = ldo})
                        .ok());
        ExpectSameBits(out, expected);
      });
    }
  }
}

TEST(Cast, RoundsOnceToNearestEven) {
  const int64_t rows = 2;
  for (int64_t cols : kWidths) {
    for (DType type : {DType::kF32, DType::kBF16}) {
      Random random(static_cast<uint64_t>(cols));
      const int64_t ldx = cols + 2, ldo = cols + 1;
      std::vector<float> x = random.Floats(rows * ldx, -1e5f, 1e5f);
      const float special[] = {reference::kNan, reference::kInf, 0x1.01p0f,   0x1.03p0f,
                               -0.0f,           0x1p-140f,       0x1.ffp127f, 0x1.fep127f};
      for (size_t i = 0; i < 8 && i < x.size(); ++i) x[i] = special[i];
      Buffer expected(type, rows * ldo);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < cols; ++i) {
          expected.Set(r * ldo + i, x[static_cast<size_t>(r * ldx + i)]);
        }
      }
      OnEveryBackend([&](Backend& backend) {
        Buffer out(type, rows * ldo);
        ASSERT_TRUE(backend
                        .Cast({.rows = rows,
                               .cols = cols,
                               .x = x.data(),
                               .ldx = ldx,
                               .out = out.data(),
                               .out_type = type,
                               .ldo = ldo})
                        .ok());
        ExpectSameBits(out, expected);
      });
    }
  }
}

TEST(TreeAdd, AddsInTheTreesShape) {
  const int64_t rows = 3;
  for (int64_t n : {1, 2, 3, 4, 5, 7, 8, 16, 17}) {
    for (int64_t cols : {1, 16, 37}) {
      for (bool accumulate : {false, true}) {
        Random random(static_cast<uint64_t>(n * 100 + cols));
        const int64_t ldp = cols + 3, ldo = cols + 2;
        std::vector<std::vector<float>> partials;
        std::vector<const float*> pointers;
        for (int64_t i = 0; i < n; ++i) partials.push_back(random.Floats(rows * ldp, -9, 9));
        for (const std::vector<float>& p : partials) pointers.push_back(p.data());
        const std::vector<float> before = random.Floats(rows * ldo);
        std::vector<float> expected = before;
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < cols; ++c) {
            const float sum = TreeSum<float>(0, n, [&](int64_t i) {
              return partials[static_cast<size_t>(i)][static_cast<size_t>(r * ldp + c)];
            });
            float& out = expected[static_cast<size_t>(r * ldo + c)];
            out = accumulate ? out + sum : sum;
          }
        }
        OnEveryBackend([&](Backend& backend) {
          std::vector<float> out = before;
          ASSERT_TRUE(backend
                          .TreeAdd({.rows = rows,
                                    .cols = cols,
                                    .partials = pointers,
                                    .ldp = ldp,
                                    .out = out.data(),
                                    .ldo = ldo,
                                    .accumulate = accumulate})
                          .ok());
          ExpectSameBits(out, expected);
        });
      }
    }
  }
}

}  // namespace
}  // namespace whalepod
