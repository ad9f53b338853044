// SampleFiltered against a plain reference: every row sorted, probabilities in FP64.
#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "tests/kernels/reference.h"

namespace whalepod {
namespace {

using reference::kInf;
using reference::kNan;
using reference::OnEveryBackend;
using reference::Random;

// A row and what its filter points to.
struct Row {
  std::vector<float> logits;
  std::vector<TokenCount> seen;
  std::vector<LogitBias> bias;
  std::vector<int32_t> banned;
  SampleFilter options;  // the rest

  SampleFilter Filter() const {
    SampleFilter filter = options;
    filter.logits = logits.data();
    filter.seen = seen;
    filter.bias = bias;
    filter.banned = banned;
    return filter;
  }
};

struct Result {
  std::vector<SampleCandidate> best;
  std::vector<std::vector<int32_t>> kept;  // ids, ascending
};

Result Sample(Backend& backend, const std::vector<Row>& rows) {
  const int64_t vocab = static_cast<int64_t>(rows[0].logits.size());
  const int64_t words = (vocab + 31) / 32;
  std::vector<SampleFilter> filters;
  for (const Row& row : rows) filters.push_back(row.Filter());
  Result result;
  result.best.resize(rows.size());
  std::vector<uint32_t> bits(rows.size() * static_cast<size_t>(words), 0xffffffffu);
  std::vector<float> scratch(static_cast<size_t>(SampleFilteredScratch(vocab, backend.Threads())),
                             kNan);
  const absl::Status status = backend.SampleFiltered({.rows = filters,
                                                      .vocab = vocab,
                                                      .best = result.best.data(),
                                                      .kept = bits.data(),
                                                      .scratch = scratch.data()});
  EXPECT_TRUE(status.ok()) << status;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::vector<int32_t>& kept = result.kept.emplace_back();
    for (int64_t id = 0; id < words * 32; ++id) {
      const uint32_t word = bits[r * static_cast<size_t>(words) + static_cast<size_t>(id / 32)];
      if (word >> (id % 32) & 1u) kept.push_back(static_cast<int32_t>(id));
    }
  }
  return result;
}

// Logits after penalties, bias and bans: F32, rounded after each operation.
std::vector<float> Adjusted(const Row& row) {
  std::vector<float> x = row.logits;
  const SampleFilter& o = row.options;
  for (const TokenCount& count : row.seen) {
    float& l = x[static_cast<size_t>(count.id)];
    l = l > 0 ? l / o.repetition_penalty : l * o.repetition_penalty;
    const float times = o.frequency_penalty * static_cast<float>(count.generated);
    if (count.generated > 0) l = l - times;
    if (count.generated > 0) l = l - o.presence_penalty;
  }
  for (const LogitBias& bias : row.bias) x[static_cast<size_t>(bias.id)] += bias.bias;
  for (const int32_t id : row.banned) x[static_cast<size_t>(id)] = -kInf;
  return x;
}

// Ids that are kept, likeliest first, with their probabilities.
struct Plain {
  std::vector<int32_t> ids;
  std::vector<double> share;
};

Plain Reference(const Row& row) {
  const std::vector<float> x = Adjusted(row);
  const SampleFilter& o = row.options;
  Plain plain;
  plain.ids.resize(x.size());
  std::iota(plain.ids.begin(), plain.ids.end(), 0);
  std::stable_sort(plain.ids.begin(), plain.ids.end(), [&](int32_t a, int32_t b) {
    return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)];
  });
  if (o.top_k > 0 && o.top_k < static_cast<int64_t>(x.size())) {
    plain.ids.resize(static_cast<size_t>(o.top_k));
  }
  const double max = x[static_cast<size_t>(plain.ids[0])];
  double total = 0;
  for (const int32_t id : plain.ids) {
    plain.share.push_back(
        std::exp((x[static_cast<size_t>(id)] - max) / static_cast<double>(o.temperature)));
    total += plain.share.back();
  }
  size_t keep = plain.ids.size();
  if (o.top_p < 1) {
    double sum = 0;
    for (keep = 0; keep < plain.ids.size() && sum < static_cast<double>(o.top_p) * total; ++keep) {
      sum += plain.share[keep];
    }
  }
  while (keep > 0 && plain.share[keep - 1] < static_cast<double>(o.min_p)) --keep;
  while (keep > 0 && x[static_cast<size_t>(plain.ids[keep - 1])] == -kInf) --keep;
  plain.ids.resize(keep);
  plain.share.resize(keep);
  total = std::accumulate(plain.share.begin(), plain.share.end(), 0.0);
  for (double& share : plain.share) share /= total;
  return plain;
}

enum Option { kTopK, kTopP, kMinP, kPenalties, kBias, kBanned, kOptions };

// A random row whose options are those of `use`.
Row MakeRow(Random& random, int64_t vocab, const std::set<int>& use) {
  Row row;
  const float width = random.Uniform(0.5f, 6);
  // One row in three is coarse: equal logits abound.
  const float step = random.Uniform(0, 3) < 1 ? 0.25f : 0;
  for (int64_t i = 0; i < vocab; ++i) {
    float x = width * (random.Uniform(-1, 1) + random.Uniform(-1, 1) + random.Uniform(-1, 1));
    if (step > 0) x = std::round(x / step) * step;
    row.logits.push_back(random.Uniform(0, 50) < 1 ? -kInf : x);
  }
  const auto id = [&] {
    return static_cast<int32_t>(random.Uniform(0, 0.999f) * static_cast<float>(vocab));
  };
  SampleFilter& o = row.options;
  o.temperature = random.Uniform(0.3f, 2);
  o.seed = static_cast<uint64_t>(random.Uniform(0, 1e9f));
  o.position = static_cast<uint32_t>(random.Uniform(0, 1e6f));
  if (use.contains(kTopK)) {
    o.top_k = 1 + static_cast<int64_t>(
                      std::exp(random.Uniform(0, std::log(1.2f * static_cast<float>(vocab)))));
  }
  if (use.contains(kTopP)) o.top_p = random.Uniform(0.01f, 0.999f);
  if (use.contains(kMinP)) o.min_p = std::exp(random.Uniform(-9, 0));
  if (use.contains(kPenalties)) {
    std::map<int32_t, uint32_t> counts;
    for (int i = 0; i < 40; ++i) counts[id()] += random.Uniform(0, 2) < 1 ? 1 : 0;
    for (const auto& [seen, generated] : counts) row.seen.push_back({seen, generated});
    o.repetition_penalty = random.Uniform(0.7f, 2);
    o.presence_penalty = random.Uniform(-2, 2);
    o.frequency_penalty = random.Uniform(-2, 2);
  }
  if (use.contains(kBias)) {
    for (int i = 0; i < 5; ++i) row.bias.push_back({id(), random.Uniform(-20, 20)});
  }
  if (use.contains(kBanned)) {
    for (int i = 0; i < 20; ++i) row.banned.push_back(id());
  }
  return row;
}

// The first of the kept ids (ascending) with the best score; `x`: adjusted logits.
SampleCandidate BestOf(const std::vector<int32_t>& ids, const std::vector<float>& x,
                       const SampleFilter& o) {
  SampleCandidate best{-kInf, -kInf, -1};
  for (const int32_t id : ids) {
    const float logit = x[static_cast<size_t>(id)];
    const float score =
        logit / o.temperature + reference::SamplingNoise(o.seed, o.position, o.choice, id);
    if (score > best.score) best = {score, logit, id};
  }
  return best;
}

void ExpectReference(const std::vector<Row>& rows, const Result& found) {
  for (size_t r = 0; r < rows.size(); ++r) {
    const Plain plain = Reference(rows[r]);
    std::vector<int32_t> ids = plain.ids;
    std::sort(ids.begin(), ids.end());
    const SampleFilter& o = rows[r].options;
    ASSERT_EQ(found.kept[r], ids) << "row " << r << " top_k " << o.top_k << " top_p " << o.top_p
                                  << " min_p " << o.min_p << " temperature " << o.temperature;
    const SampleCandidate best = BestOf(ids, Adjusted(rows[r]), o);
    ASSERT_EQ(found.best[r].id, best.id) << "row " << r;
    ASSERT_TRUE(reference::SameBits(found.best[r].score, best.score)) << "row " << r;
    ASSERT_EQ(found.best[r].logit, rows[r].logits[static_cast<size_t>(best.id)]);
  }
}

const std::vector<std::set<int>> kUses = {{kTopK},
                                          {kTopP},
                                          {kMinP},
                                          {kPenalties},
                                          {kBias},
                                          {kBanned},
                                          {kTopK, kTopP},
                                          {kTopK, kTopP, kMinP},
                                          {kTopP, kMinP, kPenalties},
                                          {kTopK, kTopP, kMinP, kPenalties, kBias, kBanned}};

TEST(SampleFiltered, KeepsExactlyWhatTheReferenceKeepsOn10000RowsAnOption) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  Random random(11);
  for (const std::set<int>& use : kUses) {
    for (int batch = 0; batch < 100; ++batch) {
      std::vector<Row> rows;
      const int64_t vocab = 1 + static_cast<int64_t>(random.Uniform(0, 700));
      for (int i = 0; i < 100; ++i) rows.push_back(MakeRow(random, vocab, use));
      const Result found = Sample(**backend, rows);
      std::vector<Row> with_choice;  // a row may have lost all its ids
      Result theirs;
      for (size_t r = 0; r < rows.size(); ++r) {
        const std::vector<float> x = Adjusted(rows[r]);
        if (*std::max_element(x.begin(), x.end()) == -kInf) {
          ASSERT_EQ(found.best[r].id, -1);
          ASSERT_TRUE(found.kept[r].empty());
          continue;
        }
        with_choice.push_back(rows[r]);
        theirs.best.push_back(found.best[r]);
        theirs.kept.push_back(found.kept[r]);
      }
      ExpectReference(with_choice, theirs);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(SampleFiltered, EveryPathKeepsAndChoosesTheSame) {
  Random random(12);
  std::vector<Row> rows;
  for (int i = 0; i < 200; ++i)
    rows.push_back(MakeRow(random, 777, kUses[static_cast<size_t>(i) % kUses.size()]));
  std::vector<Result> results;
  OnEveryBackend([&](Backend& backend) { results.push_back(Sample(backend, rows)); });
  ExpectReference(rows, results[0]);
  for (const Result& result : results) {
    EXPECT_EQ(result.kept, results[0].kept);
    for (size_t r = 0; r < rows.size(); ++r) {
      EXPECT_EQ(result.best[r].id, results[0].best[r].id);
      EXPECT_TRUE(reference::SameBits(result.best[r].score, results[0].best[r].score));
    }
  }
}

// Rows that selection by bins finds hard, as long as R1's vocabulary.
TEST(SampleFiltered, LongRowsOfAnyShape) {
  constexpr size_t kVocab = 129280;
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  Random random(13);
  std::vector<std::vector<float>> shapes(6, std::vector<float>(kVocab));
  for (size_t i = 0; i < kVocab; ++i) {
    shapes[0][i] = 1.5f;                                       // all equal
    shapes[1][i] = i % 7 == 0 ? 2.0f : 1.0f;                   // two values
    shapes[2][i] = static_cast<float>(i) * 1e-4f;              // a slope
    shapes[3][i] = 5 + static_cast<float>(i % 1000) * 1e-6f;   // within one bin
    shapes[4][i] = i == 77 ? 1000.0f : random.Uniform(-1, 1);  // one far above
    shapes[5][i] = 3 * (random.Uniform(-1, 1) + random.Uniform(-1, 1));
  }
  std::vector<Row> rows;
  for (const std::vector<float>& shape : shapes) {
    for (const auto& [top_k, top_p, min_p] : {std::tuple<int64_t, float, float>{0, 0.95f, 0},
                                              {50, 1, 0},
                                              {100000, 0.5f, 0},
                                              {0, 1, 0.1f},
                                              {129279, 0.999f, 0.001f},
                                              {0, 1, 0}}) {
      Row row;
      row.logits = shape;
      row.options.temperature = 0.6f;
      row.options.top_k = top_k;
      row.options.top_p = top_p;
      row.options.min_p = min_p;
      rows.push_back(std::move(row));
    }
  }
  ExpectReference(rows, Sample(**backend, rows));
}

// Pearson's statistic of 40,000 draws against the reference's probabilities.
TEST(SampleFiltered, DrawsFollowTheKeptProbabilities) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  constexpr int kDraws = 40000;
  Random random(14);
  for (const std::set<int>& use : kUses) {
    Row row = MakeRow(random, 60, use);
    row.options.temperature = 1.3f;
    const Plain plain = Reference(row);
    std::vector<Row> rows(kDraws, row);
    for (int i = 0; i < kDraws; ++i)
      rows[static_cast<size_t>(i)].options.position = static_cast<uint32_t>(i);
    std::map<int32_t, double> counts;
    for (const SampleCandidate& best : Sample(**backend, rows).best) ++counts[best.id];
    // Rare ids together are one class.
    double statistic = 0, rare = 0, rare_count = 0;
    int classes = 0;
    for (size_t i = 0; i < plain.ids.size(); ++i) {
      const double expected = plain.share[i] * kDraws, count = counts[plain.ids[i]];
      if (expected < 10) {
        rare += expected;
        rare_count += count;
        continue;
      }
      statistic += (count - expected) * (count - expected) / expected;
      ++classes;
    }
    if (rare > 5) {
      statistic += (rare_count - rare) * (rare_count - rare) / rare;
      ++classes;
    }
    const double freedom = std::max(1, classes - 1);
    // Wilson and Hilferty: beyond this one set of draws in a million.
    const double limit =
        freedom * std::pow(1 - 2 / (9 * freedom) + 4.75 * std::sqrt(2 / (9 * freedom)), 3);
    EXPECT_LT(statistic, limit) << classes << " classes";
  }
}

TEST(SampleFiltered, AFilterThatKeepsAllChoosesAsSampleDoes) {
  Random random(15);
  OnEveryBackend([&](Backend& backend) {
    for (const float temperature : {0.0f, 0.6f, 1.0f}) {
      Row row = MakeRow(random, 500, {});
      row.options.temperature = temperature;
      SampleCandidate plain{};
      std::vector<float> max(16), sum(16);
      const absl::Status status = backend.Sample({.rows = 1,
                                                  .vocab = 500,
                                                  .segment0 = 0,
                                                  .segments = 16,
                                                  .logits = row.logits.data(),
                                                  .ld = 500,
                                                  .temperature = &row.options.temperature,
                                                  .seed = &row.options.seed,
                                                  .position = &row.options.position,
                                                  .choice = &row.options.choice,
                                                  .best = &plain,
                                                  .segment_max = max.data(),
                                                  .segment_sum = sum.data()});
      ASSERT_TRUE(status.ok()) << status;
      const Result found = Sample(backend, {row});
      EXPECT_EQ(found.best[0].id, plain.id);
      EXPECT_EQ(found.best[0].score, plain.score);
    }
  });
}

TEST(SampleFiltered, EqualLogitsAreKeptByLowestId) {
  Row row;
  row.logits.assign(300, 2.0f);
  row.logits[250] = 3.0f;
  row.options.top_k = 4;
  OnEveryBackend([&](Backend& backend) {
    EXPECT_THAT(Sample(backend, {row}).kept[0], testing::ElementsAre(0, 1, 2, 250));
  });
}

TEST(SampleFiltered, GreedyTakesTheBestAdjustedLogit) {
  Row row;
  row.logits = {1, 5, 4, 3};
  row.seen = {{1, 1}};
  row.options.temperature = 0;
  row.options.frequency_penalty = 1.5f;
  OnEveryBackend([&](Backend& backend) {
    const Result found = Sample(backend, {row});
    EXPECT_EQ(found.best[0].id, 2);
    EXPECT_EQ(found.best[0].logit, 4.0f);
    EXPECT_TRUE(found.kept[0].empty());
  });
  row.seen = {{1, 0}};  // only in the prompt
  row.options.repetition_penalty = 1.1f;
  OnEveryBackend([&](Backend& backend) { EXPECT_EQ(Sample(backend, {row}).best[0].id, 1); });
}

TEST(SampleFiltered, NothingIsChosenWhereNothingCanBe) {
  Row nan, infinite, none, banned;
  for (Row* row : {&nan, &infinite, &none, &banned}) {
    row->logits.assign(40, 1.0f);
    row->options.top_p = 0.9f;
  }
  nan.logits[33] = kNan;
  nan.banned = {33};
  infinite.logits[2] = kInf;
  none.logits.assign(40, -kInf);
  for (int32_t id = 0; id < 40; ++id) banned.banned.push_back(id);
  OnEveryBackend([&](Backend& backend) {
    const Result found = Sample(backend, {nan, infinite, none, banned});
    for (size_t r = 0; r < 4; ++r) {
      EXPECT_EQ(found.best[r].id, -1) << r;
      EXPECT_TRUE(found.kept[r].empty()) << r;
    }
  });
}

TEST(SampleFiltered, BadArgumentsAreNamed) {
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({});
  ASSERT_TRUE(backend.ok());
  const auto error = [&](Row row) {
    row.logits.assign(10, 0.0f);
    SampleCandidate best;
    std::vector<float> scratch(static_cast<size_t>(SampleFilteredScratch(10, 1)));
    const SampleFilter filter = row.Filter();
    return std::string(
        (*backend)
            ->SampleFiltered(
                {.rows = {&filter, 1}, .vocab = 10, .best = &best, .scratch = scratch.data()})
            .message());
  };
  Row row;
  row.banned = {10};
  EXPECT_THAT(error(row), testing::HasSubstr("banned id"));
  row = {};
  row.options.top_p = 0;
  EXPECT_THAT(error(row), testing::HasSubstr("top_p"));
  row = {};
  row.options.temperature = 1e-9f;
  EXPECT_THAT(error(row), testing::HasSubstr("temperature"));
  row = {};
  row.options.min_p = kNan;
  EXPECT_THAT(error(row), testing::HasSubstr("min_p"));
}

}  // namespace
}  // namespace whalepod
