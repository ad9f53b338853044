#include "worker/model/head.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "worker/model/product.h"

namespace whalepod {
namespace {

constexpr int64_t kCandidateBytes = sizeof(SampleCandidate);

std::byte* Put(std::byte* to, const void* from, int64_t bytes) {
  std::memcpy(to, from, bytes);
  return to + bytes;
}

const std::byte* Get(const std::byte* from, void* to, int64_t bytes) {
  std::memcpy(to, from, bytes);
  return from + bytes;
}

}  // namespace

HeadBlock::HeadBlock(const Dims& d, const v1::Layout& layout, Backend* backend,
                     ScheduledExchange* exchange, ForwardObserver* observer, ActivationArena& arena)
    : dims_(d), backend_(backend), exchange_(exchange), observer_(observer) {
  int64_t all_bytes = 0;
  for (int t = 0; t < d.tp; ++t) {
    segments_of_.push_back(VocabSegmentsOf(layout, t).size());
    all_bytes += RowBytes(t, kMaxTop);
  }
  rows_ = arena.Take<float>(d.max_seqs * d.hidden);
  x_ = arena.Take(d.max_seqs * d.hidden * SizeOf(d.type));
  logits_ = arena.Take<float>(d.max_seqs * d.vocab_ids.size());
  best_ = arena.Take<SampleCandidate>(d.max_seqs);
  segment_max_ = arena.Take<float>(d.max_seqs * d.vocab_segments.size());
  segment_sum_ = arena.Take<float>(d.max_seqs * d.vocab_segments.size());
  top_ = arena.Take<SampleCandidate>(d.max_seqs * kMaxTop);
  all_ = arena.Take(d.max_seqs * all_bytes);
}

int64_t HeadBlock::RowBytes(int tp_rank, int64_t top_k) const {
  return (1 + top_k) * kCandidateBytes +
         segments_of_[tp_rank] * 2 * static_cast<int64_t>(sizeof(float));
}

absl::StatusOr<std::vector<Sampled>> HeadBlock::Run(const PlainTensor& norm,
                                                    const PackedMatrix& head, const Batch& batch,
                                                    const float* h) {
  RETURN_IF_ERROR(Logits(norm, head, batch, h));
  RETURN_IF_ERROR(Candidates(batch));
  RETURN_IF_ERROR(Gather(batch));
  std::vector<Sampled> sampled(batch.samples());
  for (int64_t row = 0; row < batch.samples(); ++row) sampled[row] = Choose(batch, row);
  return sampled;
}

// logits = W_head rmsnorm(h), this rank's slice of the vocabulary      [samples, vocab_ids]
absl::Status HeadBlock::Logits(const PlainTensor& norm, const PackedMatrix& head,
                               const Batch& batch, const float* h) {
  const Dims& d = dims_;
  const int64_t s = batch.samples();
  for (int64_t i = 0; i < s; ++i) {
    std::memcpy(rows_ + i * d.hidden, h + batch.sample_rows[i].row * d.hidden,
                d.hidden * sizeof(float));
  }
  RETURN_IF_ERROR(Normalise(d, backend_, s, d.hidden, rows_, d.hidden, norm, d.eps, x_, d.hidden));
  if (d.vocab_ids.size() > 0) {
    RETURN_IF_ERROR(backend_->MatMul({.m = s,
                                      .a = x_,
                                      .a_type = d.type,
                                      .lda = d.hidden,
                                      .w = {&head, 1},
                                      .c = logits_,
                                      .c_type = DType::kF32,
                                      .ldc = d.vocab_ids.size()}));
  }
  if (observer_ != nullptr && s > 0) {
    observer_->OnHead(batch, d.hidden, d.type, x_, d.vocab_ids.begin, d.vocab_ids.size(), logits_);
  }
  return absl::OkStatus();
}

absl::Status HeadBlock::Candidates(const Batch& batch) {
  const Dims& d = dims_;
  return backend_->Sample({.rows = batch.samples(),
                           .vocab = d.vocab,
                           .segment0 = d.vocab_segments.begin,
                           .segments = d.vocab_segments.size(),
                           .logits = logits_,
                           .ld = d.vocab_ids.size(),
                           .temperature = batch.temperature.data(),
                           .seed = batch.seed.data(),
                           .position = batch.generated.data(),
                           .choice = batch.choice.data(),
                           .best = best_,
                           .segment_max = segment_max_,
                           .segment_sum = segment_sum_,
                           .top_k = batch.top_k,
                           .top = top_});
}

// A row on the wire: best candidate, segments' maxima, their sums, best top_k.
absl::Status HeadBlock::Gather(const Batch& batch) {
  const Dims& d = dims_;
  const int64_t s = batch.samples();
  const int64_t segment_bytes = d.vocab_segments.size() * static_cast<int64_t>(sizeof(float));
  std::vector<int64_t> bytes(d.tp);
  int64_t before = 0, total = 0;
  for (int t = 0; t < d.tp; ++t) {
    bytes[t] = s * RowBytes(t, batch.top_k);
    if (t < d.at.tp) before += bytes[t];
    total += bytes[t];
  }
  std::byte* to = all_ + before;
  for (int64_t i = 0; i < s; ++i) {
    to = Put(to, best_ + i, kCandidateBytes);
    to = Put(to, segment_max_ + i * d.vocab_segments.size(), segment_bytes);
    to = Put(to, segment_sum_ + i * d.vocab_segments.size(), segment_bytes);
    to = Put(to, top_ + i * batch.top_k, batch.top_k * kCandidateBytes);
  }
  if (d.tp == 1) return absl::OkStatus();
  return exchange_->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_SAMPLE, 0,
                              {all_ + before, static_cast<size_t>(bytes[d.at.tp])}, bytes,
                              {all_, static_cast<size_t>(total)});
}

Sampled HeadBlock::Choose(const Batch& batch, int64_t row) const {
  float segment_max[kVocabSegments], segment_sum[kVocabSegments];
  SampleCandidate best{.score = 0, .logit = 0, .id = -1};
  std::vector<SampleCandidate> tops;
  const std::byte* base = all_;
  int64_t segment = 0;
  for (int t = 0; t < dims_.tp; ++t) {
    const int64_t row_bytes = RowBytes(t, batch.top_k);
    const int64_t segment_bytes = segments_of_[t] * static_cast<int64_t>(sizeof(float));
    const std::byte* from = base + row * row_bytes;
    base += batch.samples() * row_bytes;
    SampleCandidate candidate;
    from = Get(from, &candidate, kCandidateBytes);
    // Ranks hold ascending ids, so a tie stays with the lowest.
    if (candidate.id >= 0 && (best.id < 0 || candidate.score > best.score)) best = candidate;
    from = Get(from, segment_max + segment, segment_bytes);
    from = Get(from, segment_sum + segment, segment_bytes);
    segment += segments_of_[t];
    for (int64_t k = 0; k < batch.top_k; ++k) {
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
  tops.resize(std::min<size_t>(tops.size(), batch.top_k));
  for (const SampleCandidate& top : tops) sampled.top.push_back({top.id, top.logit - lse});
  return sampled;
}

}  // namespace whalepod
