#include <gmock/gmock.h>

#include <algorithm>

#include "tests/kernels/reference.h"

namespace whalepod {
namespace {

using reference::kInf;
using reference::kNan;
using reference::OnEveryBackend;
using reference::Random;
using reference::SameBits;

struct Row {
  float temperature;
  uint64_t seed;
  uint32_t position, choice;
};

// Rows of logits over a whole vocabulary, and results of any slice of it.
struct Batch {
  int64_t vocab;
  std::vector<Row> rows;
  std::vector<float> logits;  // [rows, vocab]
};

struct Result {
  std::vector<SampleCandidate> best, top;
  std::vector<float> max, sum;
};

Batch MakeBatch(int64_t vocab) {
  Batch batch{vocab,
              {{0, 1, 2, 3}, {1, 42, 0, 0}, {0.6f, 0x123456789abcdefull, 7, 0}, {0.6f, 42, 8, 1}},
              {}};
  Random random(static_cast<uint64_t>(vocab));
  for (int64_t i = 0; i < 4 * vocab; ++i) {
    // Coarse, so that equal logits occur.
    batch.logits.push_back(std::round(random.Uniform(-40, 40)) / 4);
  }
  for (int64_t i = 0; i < vocab; i += 3) {
    batch.logits[static_cast<size_t>(3 * vocab + i)] = -kInf;
  }
  return batch;
}

Result Sample(Backend& backend, const Batch& batch, int64_t segment0, int64_t segments,
              int64_t top_k) {
  const int64_t rows = static_cast<int64_t>(batch.rows.size());
  std::vector<float> temperature;
  std::vector<uint64_t> seed;
  std::vector<uint32_t> position, choice;
  for (const Row& row : batch.rows) {
    temperature.push_back(row.temperature);
    seed.push_back(row.seed);
    position.push_back(row.position);
    choice.push_back(row.choice);
  }
  Result result;
  result.best.resize(static_cast<size_t>(rows));
  result.top.resize(static_cast<size_t>(rows * top_k));
  result.max.resize(static_cast<size_t>(rows * segments));
  result.sum.resize(static_cast<size_t>(rows * segments));
  const int64_t first = std::min(segment0 * VocabSegment(batch.vocab), batch.vocab);
  const absl::Status status = backend.Sample({.rows = rows,
                                              .vocab = batch.vocab,
                                              .segment0 = segment0,
                                              .segments = segments,
                                              .logits = batch.logits.data() + first,
                                              .ld = batch.vocab,
                                              .temperature = temperature.data(),
                                              .seed = seed.data(),
                                              .position = position.data(),
                                              .choice = choice.data(),
                                              .best = result.best.data(),
                                              .segment_max = result.max.data(),
                                              .segment_sum = result.sum.data(),
                                              .top_k = top_k,
                                              .top = result.top.data()});
  EXPECT_TRUE(status.ok()) << status;
  return result;
}

Result Plain(const Batch& batch, int64_t segment0, int64_t segments, int64_t top_k) {
  Result result;
  const int64_t size = VocabSegment(batch.vocab);
  for (size_t r = 0; r < batch.rows.size(); ++r) {
    const Row& row = batch.rows[r];
    const float* logits = batch.logits.data() + static_cast<int64_t>(r) * batch.vocab;
    SampleCandidate best{-kInf, -kInf, -1};
    std::vector<std::pair<float, int32_t>> order;  // (-logit, id)
    for (int64_t s = segment0; s < segment0 + segments; ++s) {
      const int64_t begin = std::min(s * size, batch.vocab);
      const int64_t end = std::min((s + 1) * size, batch.vocab);
      float max = -kInf;
      bool nan = false;
      for (int64_t id = begin; id < end; ++id) {
        const float logit = logits[id];
        nan = nan || std::isnan(logit);
        max = std::max(max, logit);
        float score = logit;
        if (row.temperature != 0) {
          score = logit / row.temperature +
                  reference::SamplingNoise(row.seed, row.position, row.choice, id);
        }
        if (score > best.score) best = {score, logit, static_cast<int32_t>(id)};
        if (!std::isnan(logit)) order.emplace_back(-logit, static_cast<int32_t>(id));
      }
      float lanes[16] = {};
      for (int64_t id = begin; id < end && max > -kInf; ++id) {
        lanes[(id - begin) % 16] += reference::Exp(logits[id] - max);
      }
      result.max.push_back(nan ? kNan : max);
      result.sum.push_back(nan ? kNan : reference::SumLanes(lanes));
    }
    result.best.push_back(best);
    std::sort(order.begin(), order.end());
    for (int64_t i = 0; i < top_k; ++i) {
      if (i < static_cast<int64_t>(order.size())) {
        const auto& [negative, id] = order[static_cast<size_t>(i)];
        result.top.push_back({-negative, -negative, id});
      } else {
        result.top.push_back({-kInf, -kInf, -1});
      }
    }
  }
  return result;
}

void ExpectSame(const std::vector<SampleCandidate>& found,
                const std::vector<SampleCandidate>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].id, expected[i].id) << "candidate " << i;
    EXPECT_TRUE(SameBits(found[i].score, expected[i].score)) << "candidate " << i;
    EXPECT_TRUE(SameBits(found[i].logit, expected[i].logit)) << "candidate " << i;
  }
}

TEST(Sample, EqualsPlainArithmeticOnAnySlice) {
  for (int64_t vocab : {1, 5, 100, 1000, 5003}) {
    const Batch batch = MakeBatch(vocab);
    for (const auto& [segment0, segments] :
         {std::pair<int64_t, int64_t>{0, 16}, {0, 8}, {8, 8}, {4, 2}, {3, 0}}) {
      for (int64_t top_k : {0, 1, 7}) {
        SCOPED_TRACE(testing::Message() << "vocabulary " << vocab << " segments " << segment0 << "+"
                                        << segments << " top_k " << top_k);
        const Result expected = Plain(batch, segment0, segments, top_k);
        OnEveryBackend([&](Backend& backend) {
          const Result found = Sample(backend, batch, segment0, segments, top_k);
          ExpectSame(found.best, expected.best);
          ExpectSame(found.top, expected.top);
          reference::ExpectSameBits(found.max, expected.max);
          reference::ExpectSameBits(found.sum, expected.sum);
        });
      }
    }
  }
}

// Blocks of ids whose noise can't be enough are passed over.
TEST(Sample, FindsTheBestAmongManyIds) {
  for (const float spread : {0.0f, 0.01f, 3.0f, 40.0f}) {
    SCOPED_TRACE(testing::Message() << "spread " << spread);
    Batch batch{6000, {}, {}};
    Random random(7);
    for (uint32_t row = 0; row < 96; ++row) {
      batch.rows.push_back({row % 2 == 0 ? 0.6f : 1.7f, row, row, 0});
      const float level = row % 3 == 0 ? -1000.0f : random.Uniform(-5, 5);
      for (int64_t id = 0; id < batch.vocab; ++id) {
        batch.logits.push_back(level + spread * random.Uniform(-1, 1));
      }
    }
    const Result expected = Plain(batch, 0, kVocabSegments, 0);
    OnEveryBackend([&](Backend& backend) {
      ExpectSame(Sample(backend, batch, 0, kVocabSegments, 0).best, expected.best);
    });
  }
}

TEST(Sample, TiesGoToTheLowestId) {
  Batch batch{200, {{0, 0, 0, 0}}, std::vector<float>(200, -1.0f)};
  batch.logits[70] = batch.logits[133] = batch.logits[71] = 3.0f;
  OnEveryBackend([&](Backend& backend) {
    const Result found = Sample(backend, batch, 0, 16, 5);
    EXPECT_EQ(found.best[0].id, 70);
    std::vector<int32_t> top;
    for (const SampleCandidate& c : found.top) top.push_back(c.id);
    EXPECT_THAT(top, testing::ElementsAre(70, 71, 133, 0, 1));
  });
}

TEST(Sample, NanIsFlaggedAndMinusInfinityNeverChosen) {
  Batch batch{64, {{0, 0, 0, 0}, {1, 9, 0, 0}, {1, 9, 0, 0}}, {}};
  batch.logits.assign(3 * 64, 1.0f);
  batch.logits[40] = kNan;
  for (int i = 0; i < 64; ++i) {
    if (i != 17) batch.logits[static_cast<size_t>(64 + i)] = -kInf;
    batch.logits[static_cast<size_t>(128 + i)] = -kInf;
  }
  OnEveryBackend([&](Backend& backend) {
    const Result found = Sample(backend, batch, 0, 16, 0);
    EXPECT_FALSE(std::isnan(found.max[0]));
    EXPECT_TRUE(std::isnan(found.max[1]));  // ids 32..63
    EXPECT_EQ(found.best[1].id, 17);
    EXPECT_EQ(found.best[2].id, -1);
    EXPECT_EQ(found.sum[32], 0.0f);
    EXPECT_EQ(found.max[32], -kInf);
  });
}

// Frequencies over 20,000 draws against softmax(logits / temperature): 5 standard deviations.
TEST(Sample, DrawsFollowTheSoftmax) {
  const std::vector<float> logits = {0.5f, 2.0f, -1.0f, 1.0f, 0.0f, -kInf, 1.5f};
  const float temperature = 0.7f;
  const int64_t vocab = static_cast<int64_t>(logits.size()), draws = 20000;
  Batch batch{vocab, {}, {}};
  for (int64_t i = 0; i < draws; ++i) {
    batch.rows.push_back({temperature, 77, static_cast<uint32_t>(i), 0});
    batch.logits.insert(batch.logits.end(), logits.begin(), logits.end());
  }
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  const Result found = Sample(**backend, batch, 0, 16, 0);
  std::vector<double> counts(logits.size());
  for (const SampleCandidate& c : found.best) ++counts[static_cast<size_t>(c.id)];
  double total = 0;
  for (float l : logits) total += std::exp(l / temperature);
  for (size_t i = 0; i < logits.size(); ++i) {
    const double p = std::exp(logits[i] / temperature) / total;
    EXPECT_NEAR(counts[i], draws * p, 5 * std::sqrt(draws * p * (1 - p))) << "id " << i;
  }
}

TEST(LogSumExp, TreeOverSegments) {
  for (int64_t vocab : {3, 100, 5003}) {
    const Batch batch = MakeBatch(vocab);
    const Result parts = Plain(batch, 0, 16, 0);
    for (size_t r = 0; r < batch.rows.size(); ++r) {
      const float* maxima = parts.max.data() + 16 * r;
      const float* sums = parts.sum.data() + 16 * r;
      const float max = *std::max_element(maxima, maxima + 16);
      const float sum = TreeSum<float>(
          0, 16, [&](int64_t s) { return reference::Exp(maxima[s] - max) * sums[s]; });
      const float found = LogSumExp({maxima, 16}, {sums, 16});
      EXPECT_TRUE(SameBits(found, max + reference::Log(sum)));
      double truth = 0;
      for (int64_t i = 0; i < vocab; ++i) {
        truth += std::exp(batch.logits[r * static_cast<size_t>(vocab) + static_cast<size_t>(i)]);
      }
      EXPECT_NEAR(found, std::log(truth), 1e-5);
    }
  }
  std::vector<float> max(16, -kInf), sum(16, 0.0f);
  EXPECT_EQ(LogSumExp(max, sum), -kInf);
  max[3] = kNan;
  EXPECT_TRUE(std::isnan(LogSumExp(max, sum)));
}

}  // namespace
}  // namespace whalepod
