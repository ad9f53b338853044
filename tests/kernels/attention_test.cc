// Both forms of attention: bit for bit against plain arithmetic, close to the truth, and equal
// however a prompt is cut.
#include <sys/mman.h>

#include <optional>

#include "tests/kernels/attention_reference.h"

namespace whalepod {
namespace {

using reference::Buffer;
using reference::ExpectSameBits;
using reference::OnEveryBackend;
using reference::PagedLatents;
using reference::Random;
using reference::Weights;

struct Shape {
  int64_t tokens, pos0, heads, nope, rope, v, lora, block_tokens;
  bool shuffled;
};

// One sequence's expanded attention: inputs, and what must come out.
class Expanded {
 public:
  Expanded(const Shape& shape, DType type)
      : s(shape),
        type(type),
        random(static_cast<uint64_t>(shape.tokens * 1000 + shape.pos0)),
        latents(type, shape.pos0 + shape.tokens, shape.lora + shape.rope, shape.block_tokens,
                shape.shuffled ? 5 : 0, shape.shuffled, random),
        q(type, random.Floats(shape.tokens * shape.heads * (shape.nope + shape.rope), -2, 2)) {
    for (int64_t h = 0; h < s.heads; ++h) {
      k_up.emplace_back(type, s.nope, s.lora, random);
      v_up.emplace_back(type, s.v, s.lora, random);
    }
    for (int64_t h = 0; h < s.heads; ++h) {
      k_packed.push_back(k_up[static_cast<size_t>(h)].packed());
      v_packed.push_back(v_up[static_cast<size_t>(h)].packed());
    }
  }

  int64_t QueryWidth() const { return s.nope + s.rope; }

  // Keys [position][nope + rope] or values [position][v] of one head, rounded.
  std::vector<float> Keys(int64_t head) const {
    std::vector<float> keys;
    for (int64_t p = 0; p < s.pos0 + s.tokens; ++p) {
      Up(k_up[static_cast<size_t>(head)].plain(), p, &keys);
      for (int64_t i = 0; i < s.rope; ++i) keys.push_back(latents.Get(p, s.lora + i));
    }
    return keys;
  }
  std::vector<float> Values(int64_t head) const {
    std::vector<float> values;
    for (int64_t p = 0; p < s.pos0 + s.tokens; ++p) {
      Up(v_up[static_cast<size_t>(head)].plain(), p, &values);
    }
    return values;
  }
  std::vector<float> Query(int64_t token, int64_t head) const {
    std::vector<float> row;
    for (int64_t i = 0; i < QueryWidth(); ++i) {
      row.push_back(q.Get((token * s.heads + head) * QueryWidth() + i));
    }
    return row;
  }

  // attend(query row, positions, key, value) for each token and head, into fn(index, numbers).
  template <typename Attend, typename Take>
  void ForEachRow(const Attend& attend, const Take& take) const {
    for (int64_t h = 0; h < s.heads; ++h) {
      const std::vector<float> keys = Keys(h), values = Values(h);
      const auto key = [&](int64_t p, int64_t i) {
        return keys[static_cast<size_t>(p * QueryWidth() + i)];
      };
      const auto value = [&](int64_t p, int64_t i) {
        return values[static_cast<size_t>(p * s.v + i)];
      };
      for (int64_t t = 0; t < s.tokens; ++t) {
        take((t * s.heads + h) * s.v, attend(Query(t, h), s.pos0 + t + 1, key, value));
      }
    }
  }

  Buffer Expected() const {
    Buffer out(type, s.tokens * s.heads * s.v);
    ForEachRow(
        [&](const std::vector<float>& row, int64_t n, const auto& key, const auto& value) {
          return reference::AttendRow(row, n, s.v, scale, key, value);
        },
        [&](int64_t at, const std::vector<float>& numbers) {
          for (float x : numbers) out.Set(at++, x);
        });
    return out;
  }

  // Tokens [begin, end) as one call.
  void Run(Backend& backend, int64_t begin, int64_t end, Buffer* out) {
    AttentionExpandedArgs args;
    args.tokens = end - begin;
    args.pos0 = s.pos0 + begin;
    args.heads = s.heads;
    args.nope = s.nope;
    args.rope = s.rope;
    args.v = s.v;
    args.lora = s.lora;
    args.ldq = s.heads * QueryWidth();
    args.q = static_cast<const char*>(q.data()) + begin * args.ldq * SizeOf(type);
    args.cache = latents.Cache();
    args.block_table = latents.table.data();
    args.k_up = k_packed;
    args.v_up = v_packed;
    args.scale = scale;
    args.ldo = s.heads * s.v;
    args.out = static_cast<char*>(out->data()) + begin * args.ldo * SizeOf(type);
    std::vector<char> scratch(static_cast<size_t>(
        backend.AttentionExpandedScratch(args.pos0 + args.tokens, args.tokens, s.nope, s.v, type)));
    args.scratch = scratch.data();
    args.scratch_bytes = static_cast<int64_t>(scratch.size());
    const absl::Status status = backend.AttentionExpanded(args);
    ASSERT_TRUE(status.ok()) << status;
  }

  const Shape s;
  const DType type;
  const float scale = 0.3f;
  Random random;
  PagedLatents latents;
  Buffer q;
  std::vector<Weights> k_up, v_up;
  std::vector<PackedMatrix> k_packed, v_packed;

 private:
  void Up(const PlainMatrix& up, int64_t p, std::vector<float>* out) const {
    std::vector<float> latent;
    for (int64_t i = 0; i < s.lora; ++i) latent.push_back(latents.Get(p, i));
    Buffer rounded(type, up.n);
    for (int64_t i = 0; i < up.n; ++i) {
      rounded.Set(i, ReferenceProduct(up, latent.data(), i, 0, nullptr));
      out->push_back(rounded.Get(i));
    }
  }
};

constexpr Shape kShapes[] = {
    {1, 0, 1, 8, 4, 8, 16, 4, false},     {5, 0, 2, 16, 8, 16, 32, 4, true},
    {37, 0, 3, 12, 6, 20, 24, 16, true},  {40, 21, 5, 16, 16, 33, 32, 8, false},
    {3, 62, 2, 32, 10, 80, 48, 64, true}, {70, 3, 1, 7, 2, 5, 9, 16, false},
};

TEST(AttentionExpanded, FollowsTheOrder) {
  for (const Shape& shape : kShapes) {
    for (DType type : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << "tokens " << shape.tokens << " " << Name(type));
      Expanded attention(shape, type);
      const Buffer expected = attention.Expected();
      OnEveryBackend([&](Backend& backend) {
        Buffer out(type, expected.size());
        attention.Run(backend, 0, shape.tokens, &out);
        ExpectSameBits(out, expected);
      });
    }
  }
}

TEST(AttentionExpanded, AnyChunkingGivesTheSameBits) {
  for (DType type : {DType::kF32, DType::kBF16}) {
    Expanded attention({75, 6, 2, 16, 8, 24, 32, 8, true}, type);
    std::optional<Buffer> whole;
    OnEveryBackend([&](Backend& backend) {
      for (const std::vector<int64_t>& cuts :
           {std::vector<int64_t>{75}, {1, 75}, {32, 75}, {5, 6, 7, 40, 41, 74, 75}, {33, 66, 75}}) {
        Buffer out(type, 75 * 2 * 24);
        int64_t begin = 0;
        for (int64_t end : cuts) {
          attention.Run(backend, begin, end, &out);
          begin = end;
        }
        if (!whole) whole = out;
        ExpectSameBits(out, *whole);
      }
    });
  }
}

// A NaN at the last position reaches the queries that see it and no other.
TEST(AttentionExpanded, LaterPositionsDoNotLeak) {
  const Shape shape = {38, 3, 2, 16, 8, 16, 32, 8, true};
  Expanded attention(shape, DType::kBF16);
  const Buffer expected = attention.Expected();
  const int64_t bad = 21;  // of the queries; not at a multiple of any block
  for (int64_t i = 0; i < attention.latents.width; ++i) {
    attention.latents.memory.Set(attention.latents.At(shape.pos0 + bad, i), reference::kNan);
  }
  OnEveryBackend([&](Backend& backend) {
    Buffer out(DType::kBF16, expected.size());
    attention.Run(backend, 0, shape.tokens, &out);
    for (int64_t i = 0; i < out.size(); ++i) {
      if (i / (shape.heads * shape.v) < bad) {
        ASSERT_TRUE(reference::SameBits(out.Get(i), expected.Get(i))) << "element " << i;
      } else {
        ASSERT_TRUE(std::isnan(out.Get(i))) << "element " << i;
      }
    }
  });
}

// F32, so what differs from the truth is the order of sums alone: 1e-5 for values below 10.
TEST(AttentionExpanded, IsCloseToTheTruth) {
  const Shape shape = {6, 190, 2, 32, 16, 32, 64, 64, true};
  Expanded attention(shape, DType::kF32);
  Buffer out(DType::kF32, shape.tokens * shape.heads * shape.v);
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  attention.Run(**backend, 0, shape.tokens, &out);
  attention.ForEachRow(
      [&](const std::vector<float>& row, int64_t n, const auto& key, const auto& value) {
        return reference::AttendRowInDouble(row, n, shape.v, attention.scale, key, value);
      },
      [&](int64_t at, const std::vector<double>& numbers) {
        for (double x : numbers) EXPECT_NEAR(out.Get(at++), x, 1e-5);
      });
}

// --- absorbed
// --------------------------------------------------------------------------------------

struct AbsorbedShape {
  int64_t heads, lora, rope, block_tokens;
  std::vector<int32_t> positions;
};

class Absorbed {
 public:
  Absorbed(const AbsorbedShape& shape, DType type)
      : s(shape),
        type(type),
        random(static_cast<uint64_t>(shape.heads)),
        latents(type, *std::max_element(shape.positions.begin(), shape.positions.end()) + 1,
                shape.lora + shape.rope, shape.block_tokens, 3, true, random),
        q(type, random.Floats(Tokens() * shape.heads * Width(), -1, 1)),
        tables(shape.positions.size(), latents.table.data()) {}

  int64_t Tokens() const { return static_cast<int64_t>(s.positions.size()); }
  int64_t Width() const { return s.lora + s.rope; }

  Buffer Expected() const {
    Buffer out(type, Tokens() * s.heads * s.lora);
    const auto element = [&](int64_t p, int64_t i) { return latents.Get(p, i); };
    for (int64_t row = 0; row < Tokens() * s.heads; ++row) {
      std::vector<float> query;
      for (int64_t i = 0; i < Width(); ++i) query.push_back(q.Get(row * Width() + i));
      const int64_t n = s.positions[static_cast<size_t>(row / s.heads)] + int64_t{1};
      int64_t at = row * s.lora;
      for (float x : reference::AttendRow(query, n, s.lora, scale, element, element)) {
        out.Set(at++, x);
      }
    }
    return out;
  }

  // Rows [begin, end) as one call.
  void Run(Backend& backend, int64_t begin, int64_t end, Buffer* out) {
    Run(backend, latents.Cache(), tables.data(), begin, end, out);
  }
  void Run(Backend& backend, const LatentCache& cache, const int32_t* const* block_tables,
           int64_t begin, int64_t end, Buffer* out) {
    AttentionAbsorbedArgs args;
    args.tokens = end - begin;
    args.heads = s.heads;
    args.lora = s.lora;
    args.rope = s.rope;
    args.ldq = s.heads * Width();
    args.q = static_cast<const char*>(q.data()) + begin * args.ldq * SizeOf(type);
    args.positions = s.positions.data() + begin;
    args.block_tables = block_tables + begin;
    args.cache = cache;
    args.scale = scale;
    args.ldo = s.heads * s.lora;
    args.out = static_cast<char*>(out->data()) + begin * args.ldo * SizeOf(type);
    // What is in it is of no account.
    std::vector<char> scratch(
        static_cast<size_t>(backend.AttentionAbsorbedScratch(
            *std::max_element(s.positions.begin() + begin, s.positions.begin() + end) + 1)),
        '\xff');
    args.scratch = scratch.data();
    args.scratch_bytes = static_cast<int64_t>(scratch.size());
    const absl::Status status = backend.AttentionAbsorbed(args);
    ASSERT_TRUE(status.ok()) << status;
  }

  const AbsorbedShape s;
  const DType type;
  const float scale = 0.4f;
  Random random;
  PagedLatents latents;
  Buffer q;
  std::vector<const int32_t*> tables;
};

TEST(AttentionAbsorbed, FollowsTheOrder) {
  for (const AbsorbedShape& shape :
       {AbsorbedShape{1, 16, 4, 4, {0}}, AbsorbedShape{3, 32, 8, 4, {5, 0, 31}},
        AbsorbedShape{16, 24, 6, 16, {40, 15, 16}}, AbsorbedShape{37, 33, 10, 8, {70}},
        AbsorbedShape{5, 80, 16, 64, {100, 99, 3, 64}}, AbsorbedShape{8, 32, 16, 32, {31, 32, 63}},
        AbsorbedShape{12, 48, 16, 8, {40}}, AbsorbedShape{20, 24, 6, 16, {64, 33}}}) {
    for (DType type : {DType::kF32, DType::kBF16}) {
      SCOPED_TRACE(testing::Message() << "heads " << shape.heads << " " << Name(type));
      Absorbed attention(shape, type);
      const Buffer expected = attention.Expected();
      OnEveryBackend([&](Backend& backend) {
        Buffer out(type, expected.size());
        attention.Run(backend, 0, attention.Tokens(), &out);
        ExpectSameBits(out, expected);
        // A row alone is the same row.
        Buffer single(type, expected.size());
        for (int64_t t = 0; t < attention.Tokens(); ++t) attention.Run(backend, t, t + 1, &single);
        ExpectSameBits(single, expected);
      });
    }
  }
}

// Blocks further apart than 32 bits of elements can say.
TEST(AttentionAbsorbed, FarBlocks) {
  const int64_t width = 40, block_tokens = 4, tokens = 7, far = int64_t{3} << 30;
  const int64_t bytes = (far + block_tokens * width) * 2;
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) GTEST_SKIP() << "no address space";
  Absorbed near({4, 32, 8, block_tokens, {tokens - 1}}, DType::kBF16);
  const Buffer expected = near.Expected();
  const std::vector<int32_t> table = {1, 0};
  const int32_t* tables[] = {table.data()};
  OnEveryBackend([&](Backend& backend) {
    Buffer rows(DType::kBF16, tokens * width);
    std::vector<int64_t> slots;
    for (int64_t t = 0; t < tokens; ++t) {
      slots.push_back(table[static_cast<size_t>(t / block_tokens)] * block_tokens +
                      t % block_tokens);
      for (int64_t i = 0; i < width; ++i) rows.Set(t * width + i, near.latents.Get(t, i));
    }
    const LatentCache cache = {memory, DType::kBF16, block_tokens, width, far, 2};
    CacheWriteArgs write;
    write.tokens = tokens;
    write.cache = cache;
    write.slots = slots.data();
    write.rows = rows.data();
    write.ld = width;
    ASSERT_TRUE(backend.CacheWrite(write).ok());
    Buffer out(DType::kBF16, expected.size());
    near.Run(backend, cache, tables, 0, 1, &out);
    ExpectSameBits(out, expected);
  });
  munmap(memory, static_cast<size_t>(bytes));
}

// The two forms of the same attention, in F32: query absorbed into k_up, values raised after.
TEST(Attention, FormsAgree) {
  const Shape shape = {4, 60, 3, 16, 8, 24, 32, 16, true};
  Expanded expanded(shape, DType::kF32);
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  Buffer direct(DType::kF32, shape.tokens * shape.heads * shape.v);
  expanded.Run(**backend, 0, shape.tokens, &direct);

  const int64_t width = shape.lora + shape.rope;
  std::vector<float> q(static_cast<size_t>(shape.tokens * shape.heads * width));
  std::vector<float> mixed(static_cast<size_t>(shape.tokens * shape.heads * shape.lora));
  std::vector<int32_t> positions;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    positions.push_back(static_cast<int32_t>(shape.pos0 + t));
    for (int64_t h = 0; h < shape.heads; ++h) {
      const std::vector<float> query = expanded.Query(t, h);
      const PlainMatrix& up = expanded.k_up[static_cast<size_t>(h)].plain();
      float* row = q.data() + (t * shape.heads + h) * width;
      for (int64_t j = 0; j < shape.lora; ++j) {
        for (int64_t i = 0; i < shape.nope; ++i) {
          row[j] +=
              query[static_cast<size_t>(i)] * up.values[static_cast<size_t>(i * shape.lora + j)];
        }
      }
      for (int64_t i = 0; i < shape.rope; ++i) {
        row[shape.lora + i] = query[static_cast<size_t>(shape.nope + i)];
      }
    }
  }
  const std::vector<const int32_t*> tables(positions.size(), expanded.latents.table.data());
  std::vector<char> scratch(
      static_cast<size_t>((*backend)->AttentionAbsorbedScratch(shape.pos0 + shape.tokens)));
  AttentionAbsorbedArgs args;
  args.tokens = shape.tokens;
  args.heads = shape.heads;
  args.lora = shape.lora;
  args.rope = shape.rope;
  args.q = q.data();
  args.ldq = shape.heads * width;
  args.positions = positions.data();
  args.block_tables = tables.data();
  args.cache = expanded.latents.Cache();
  args.scale = expanded.scale;
  args.out = mixed.data();
  args.ldo = shape.heads * shape.lora;
  args.scratch = scratch.data();
  args.scratch_bytes = static_cast<int64_t>(scratch.size());
  ASSERT_TRUE((*backend)->AttentionAbsorbed(args).ok());
  for (int64_t row = 0; row < shape.tokens * shape.heads; ++row) {
    const PlainMatrix& up = expanded.v_up[static_cast<size_t>(row % shape.heads)].plain();
    for (int64_t i = 0; i < shape.v; ++i) {
      EXPECT_NEAR(ReferenceProduct(up, mixed.data() + row * shape.lora, i, 0, nullptr),
                  direct.Get(row * shape.v + i), 2e-5);
    }
  }
}

}  // namespace
}  // namespace whalepod
