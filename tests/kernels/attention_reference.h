// Attention as docs/numbers.md defines it, one number at a time, and once more in double.
#pragma once

#include <algorithm>

#include "tests/kernels/product_reference.h"
#include "tests/kernels/reference.h"

namespace whalepod::reference {

// A paged cache of one sequence whose blocks lie in shuffled places.
struct PagedLatents {
  PagedLatents(DType type, int64_t tokens, int64_t width, int64_t block_tokens, int64_t gap,
               bool shuffled, Random& random)
      : width(width),
        blocks((tokens + block_tokens - 1) / block_tokens),
        stride(block_tokens * width + gap),
        block_tokens(block_tokens),
        // NaN wherever nothing was written: nothing may look there.
        memory(type, std::vector<float>(static_cast<size_t>((blocks + 2) * stride), kNan)) {
    for (int64_t b = 0; b < blocks; ++b) table.push_back(static_cast<int32_t>(b + 1));
    if (shuffled) {
      for (int64_t b = blocks - 1; b > 0; --b) {
        std::swap(table[static_cast<size_t>(b)], table[static_cast<size_t>(random.Below(b + 1))]);
      }
    }
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < width; ++i) memory.Set(At(t, i), random.Uniform(-1, 1));
    }
  }
  int64_t At(int64_t token, int64_t i) const {
    return table[static_cast<size_t>(token / block_tokens)] * stride +
           token % block_tokens * width + i;
  }
  float Get(int64_t token, int64_t i) const { return memory.Get(At(token, i)); }
  LatentCache Cache() {
    return {memory.data(), memory.type(), block_tokens, width, stride, blocks + 2};
  }

  int64_t width, blocks, stride, block_tokens;
  Buffer memory;
  std::vector<int32_t> table;
};

// One row against `n` positions. key(p, i) and value(p, i) are already rounded numbers.
template <typename Key, typename Value>
std::vector<float> AttendRow(const std::vector<float>& q, int64_t n, int64_t value_width,
                             float scale, const Key& key, const Value& value) {
  std::vector<float> p;
  float max = -kInf;
  for (int64_t j = 0; j < n; ++j) {
    float lanes[16] = {};
    for (size_t i = 0; i < q.size(); ++i) {
      lanes[i % 16] = std::fma(q[i], key(j, static_cast<int64_t>(i)), lanes[i % 16]);
    }
    p.push_back(SumLanes(lanes) * scale);
    max = std::max(max, p.back());
  }
  float total = 0;
  for (float& s : p) total += s = Exp(s - max);
  std::vector<float> out;
  for (int64_t i = 0; i < value_width; ++i) {
    float sum = 0;
    for (int64_t j = 0; j < n; ++j) sum = std::fma(p[static_cast<size_t>(j)], value(j, i), sum);
    out.push_back(sum / total);
  }
  return out;
}

// The same in double, in any order.
template <typename Key, typename Value>
std::vector<double> AttendRowInDouble(const std::vector<float>& q, int64_t n, int64_t value_width,
                                      double scale, const Key& key, const Value& value) {
  std::vector<double> p;
  double max = -1e300, total = 0;
  for (int64_t j = 0; j < n; ++j) {
    double s = 0;
    for (size_t i = 0; i < q.size(); ++i) s += q[i] * double{key(j, static_cast<int64_t>(i))};
    p.push_back(s * scale);
    max = std::max(max, p.back());
  }
  for (double& s : p) total += s = std::exp(s - max);
  std::vector<double> out;
  for (int64_t i = 0; i < value_width; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += p[static_cast<size_t>(j)] * double{value(j, i)};
    out.push_back(sum / total);
  }
  return out;
}

// A random BF16 or F32 matrix, packed; keeps what it points to.
class Weights {
 public:
  Weights(DType type, int64_t n, int64_t k, Random& random)
      : rows_(type, random.Floats(n * k)),
        packed_bytes_(static_cast<size_t>(PackedBytes(type, n, k))) {
    PackRows(type, rows_.data(), k, 0, n, n, k, packed_bytes_.data());
    plain_.n = n;
    plain_.k = k;
    for (int64_t i = 0; i < n * k; ++i) plain_.values.push_back(rows_.Get(i));
    packed_.dtype = type;
    packed_.n = n;
    packed_.k = k;
    packed_.data = packed_bytes_.data();
  }
  const PlainMatrix& plain() const { return plain_; }
  const PackedMatrix& packed() const { return packed_; }

 private:
  Buffer rows_;
  std::vector<char> packed_bytes_;
  PlainMatrix plain_;
  PackedMatrix packed_;
};

}  // namespace whalepod::reference
