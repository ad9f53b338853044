#include "worker/model/head.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "worker/model/product.h"

namespace whalepod {
namespace {

constexpr int64_t kCandidateBytes = sizeof(SampleCandidate);
// Prompts are scored in pieces of at least this many rows: few more bytes, far fewer passes over
// the head. In proto/plan/activation_bytes.cc too.
constexpr int64_t kLeastPiece = 32;

std::byte* Put(std::byte* to, const void* from, int64_t bytes) {
  std::memcpy(to, from, bytes);
  return to + bytes;
}

const std::byte* Get(const std::byte* from, void* to, int64_t bytes) {
  std::memcpy(to, from, bytes);
  return from + bytes;
}

}  // namespace

HeadBlock::HeadBlock(const Dims& d, const v1::ModelSpec& model, const v1::Layout& layout,
                     Backend* backend, ScheduledExchange* exchange, ForwardObserver* observer,
                     ActivationArena& arena)
    : dims_(d),
      piece_(std::min(d.max_tokens, std::max(d.max_seqs, kLeastPiece))),
      backend_(backend),
      exchange_(exchange),
      observer_(observer) {
  int64_t all_bytes = 0;
  std::vector<Range> ids_of;
  for (int t = 0; t < d.tp; ++t) {
    segments_of_.push_back(VocabSegmentsOf(layout, t).size());
    ids_of.push_back(VocabIdsOf(model, layout, t));
    all_bytes += RowBytes(t, kMaxTop);
  }
  rows_ = arena.Take<float>(piece_ * d.hidden);
  x_ = arena.Take(piece_ * d.hidden * SizeOf(d.type));
  logits_ = arena.Take<float>(piece_ * d.vocab_ids.size());
  best_ = arena.Take<SampleCandidate>(d.max_tokens);
  segment_max_ = arena.Take<float>(d.max_tokens * d.vocab_segments.size());
  segment_sum_ = arena.Take<float>(d.max_tokens * d.vocab_segments.size());
  top_ = arena.Take<SampleCandidate>(d.max_tokens * kMaxTop);
  all_ = arena.Take(d.max_tokens * all_bytes);
  filtered_.emplace(d, std::move(ids_of), backend, exchange, arena);
}

int64_t HeadBlock::RowBytes(int tp_rank, int64_t top_k) const {
  return (1 + top_k) * kCandidateBytes +
         segments_of_[tp_rank] * 2 * static_cast<int64_t>(sizeof(float));
}

absl::StatusOr<std::vector<Sampled>> HeadBlock::Run(const PlainTensor& norm,
                                                    const PackedMatrix& head, const Batch& batch,
                                                    const float* h) {
  const absl::Span<const ScoreRow> scores = batch.score_rows;
  for (int64_t first = 0; first < batch.scores(); first += piece_) {
    const absl::Span<const ScoreRow> piece = scores.subspan(first, piece_);
    std::vector<int32_t> h_rows;
    for (const ScoreRow& row : piece) h_rows.push_back(row.row);
    RETURN_IF_ERROR(Logits(norm, head, h_rows, h));
    RETURN_IF_ERROR(Score(batch, piece, first));
  }
  std::vector<int32_t> h_rows;
  for (const SampleRow& row : batch.sample_rows) h_rows.push_back(row.row);
  RETURN_IF_ERROR(Logits(norm, head, h_rows, h));
  if (observer_ != nullptr && batch.samples() > 0) {
    observer_->OnHead(batch, dims_.hidden, dims_.type, x_, dims_.vocab_ids.begin,
                      dims_.vocab_ids.size(), logits_);
  }
  RETURN_IF_ERROR(Sample(batch, batch.scores()));
  RETURN_IF_ERROR(filtered_->Run(batch, logits_, best_ + batch.scores()));
  const int64_t rows = batch.scores() + batch.samples();
  RETURN_IF_ERROR(Gather(rows, batch.top_k));
  std::vector<Sampled> sampled(rows);
  for (int64_t row = 0; row < rows; ++row) sampled[row] = Choose(rows, batch.top_k, row);
  return sampled;
}

// logits = W_head rmsnorm(h), this rank's slice of the vocabulary      [rows, vocab_ids]
absl::Status HeadBlock::Logits(const PlainTensor& norm, const PackedMatrix& head,
                               absl::Span<const int32_t> h_rows, const float* h) {
  const Dims& d = dims_;
  const int64_t rows = static_cast<int64_t>(h_rows.size());
  for (int64_t i = 0; i < rows; ++i) {
    std::memcpy(rows_ + i * d.hidden, h + h_rows[i] * d.hidden, d.hidden * sizeof(float));
  }
  RETURN_IF_ERROR(
      Normalise(d, backend_, rows, d.hidden, rows_, d.hidden, norm, d.eps, x_, d.hidden));
  if (d.vocab_ids.size() == 0) return absl::OkStatus();
  return backend_->MatMul({.m = rows,
                           .a = x_,
                           .a_type = d.type,
                           .lda = d.hidden,
                           .w = {&head, 1},
                           .c = logits_,
                           .c_type = DType::kF32,
                           .ldc = d.vocab_ids.size()});
}

SampleArgs HeadBlock::Candidates(const Batch& batch, int64_t rows, int64_t first) const {
  const Dims& d = dims_;
  return {.rows = rows,
          .vocab = d.vocab,
          .segment0 = d.vocab_segments.begin,
          .segments = d.vocab_segments.size(),
          .logits = logits_,
          .ld = d.vocab_ids.size(),
          .best = best_ + first,
          .segment_max = segment_max_ + first * d.vocab_segments.size(),
          .segment_sum = segment_sum_ + first * d.vocab_segments.size(),
          .top_k = batch.top_k,
          .top = top_ + first * batch.top_k};
}

absl::Status HeadBlock::Score(const Batch& batch, absl::Span<const ScoreRow> rows, int64_t first) {
  std::vector<int32_t> target;
  for (const ScoreRow& row : rows) target.push_back(row.target);
  const std::vector<float> temperature(rows.size());
  const std::vector<uint64_t> seed(rows.size());
  const std::vector<uint32_t> unused(rows.size());
  SampleArgs args = Candidates(batch, static_cast<int64_t>(rows.size()), first);
  args.temperature = temperature.data();
  args.seed = seed.data();
  args.position = args.choice = unused.data();
  args.target = target.data();
  return backend_->Sample(args);
}

absl::Status HeadBlock::Sample(const Batch& batch, int64_t first) {
  SampleArgs args = Candidates(batch, batch.samples(), first);
  // Narrowed rows are chosen by RowSampler: noise would be made here for nothing.
  std::vector<float> temperature = batch.temperature;
  for (const FilteredSample& entry : batch.filtered) temperature[entry.sample] = 0;
  args.temperature = temperature.data();
  args.seed = batch.seed.data();
  args.position = batch.generated.data();
  args.choice = batch.choice.data();
  return backend_->Sample(args);
}

// A row on the wire: best candidate, segments' maxima, their sums, best top_k.
absl::Status HeadBlock::Gather(int64_t rows, int64_t top_k) {
  const Dims& d = dims_;
  const int64_t segment_bytes = d.vocab_segments.size() * static_cast<int64_t>(sizeof(float));
  std::vector<int64_t> bytes(d.tp);
  int64_t before = 0, total = 0;
  for (int t = 0; t < d.tp; ++t) {
    bytes[t] = rows * RowBytes(t, top_k);
    if (t < d.at.tp) before += bytes[t];
    total += bytes[t];
  }
  std::byte* to = all_ + before;
  for (int64_t i = 0; i < rows; ++i) {
    to = Put(to, best_ + i, kCandidateBytes);
    to = Put(to, segment_max_ + i * d.vocab_segments.size(), segment_bytes);
    to = Put(to, segment_sum_ + i * d.vocab_segments.size(), segment_bytes);
    to = Put(to, top_ + i * top_k, top_k * kCandidateBytes);
  }
  if (d.tp == 1) return absl::OkStatus();
  return exchange_->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_SAMPLE, 0,
                              {all_ + before, static_cast<size_t>(bytes[d.at.tp])}, bytes,
                              {all_, static_cast<size_t>(total)});
}

Sampled HeadBlock::Choose(int64_t rows, int64_t top_k, int64_t row) const {
  float segment_max[kVocabSegments], segment_sum[kVocabSegments];
  SampleCandidate best{.score = 0, .logit = 0, .id = -1};
  std::vector<SampleCandidate> tops;
  const std::byte* base = all_;
  int64_t segment = 0;
  for (int t = 0; t < dims_.tp; ++t) {
    const int64_t row_bytes = RowBytes(t, top_k);
    const int64_t segment_bytes = segments_of_[t] * static_cast<int64_t>(sizeof(float));
    const std::byte* from = base + row * row_bytes;
    base += rows * row_bytes;
    SampleCandidate candidate;
    from = Get(from, &candidate, kCandidateBytes);
    // Ranks hold ascending ids, so a tie stays with the lowest.
    if (candidate.id >= 0 && (best.id < 0 || candidate.score > best.score)) best = candidate;
    from = Get(from, segment_max + segment, segment_bytes);
    from = Get(from, segment_sum + segment, segment_bytes);
    segment += segments_of_[t];
    for (int64_t k = 0; k < top_k; ++k) {
      from = Get(from, &candidate, kCandidateBytes);
      if (candidate.id >= 0) tops.push_back(candidate);
    }
  }
  CHECK_EQ(segment, kVocabSegments);
  Sampled sampled;
  const bool nan =
      std::any_of(segment_max, segment_max + kVocabSegments, [](float m) { return std::isnan(m); });
  const float lse = nan ? NAN : LogSumExp(segment_max, segment_sum);
  if (!std::isfinite(lse) || best.id < 0) {
    sampled.error = nan ? "logits are NaN" : "logits are not finite";
    return sampled;
  }
  sampled.id = best.id;
  sampled.logprob = best.logit - lse;
  std::stable_sort(tops.begin(), tops.end(),
                   [](const auto& a, const auto& b) { return a.logit > b.logit; });
  tops.resize(std::min<size_t>(tops.size(), top_k));
  for (const SampleCandidate& top : tops) sampled.top.push_back({top.id, top.logit - lse});
  return sampled;
}

}  // namespace whalepod
