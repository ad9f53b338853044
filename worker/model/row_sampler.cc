#include "worker/model/row_sampler.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "base/units.h"

namespace whalepod {

RowSampler::RowSampler(const Dims& d, std::vector<Range> ids_of, Backend* backend,
                       ScheduledExchange* exchange, ActivationArena& arena)
    : dims_(d), ids_of_(std::move(ids_of)), backend_(backend), exchange_(exchange) {
  scratch_ = arena.Take<float>(SampleFilteredScratch(d.vocab, backend->Threads()));
  if (d.tp == 1) return;
  const int64_t owned = CeilDiv(d.max_seqs, d.tp);
  sent_ = arena.Take<float>(d.max_seqs * d.vocab_ids.size());
  received_ = arena.Take<float>(owned * d.vocab);
  whole_ = arena.Take<float>(owned * d.vocab);
}

absl::Status RowSampler::Run(const Batch& batch, const float* logits, SampleCandidate* best) {
  if (dims_.tp > 1) RETURN_IF_ERROR(Exchange(batch, logits));
  std::vector<SampleFilter> filters;
  std::vector<int64_t> samples;
  for (int64_t j = 0; j < static_cast<int64_t>(batch.filtered.size()); ++j) {
    const FilteredSample& entry = batch.filtered[j];
    best[entry.sample].id = -1;
    if (j % dims_.tp != dims_.at.tp) continue;
    filters.push_back(entry.filter);
    filters.back().logits =
        dims_.tp == 1 ? logits + entry.sample * dims_.vocab : whole_ + j / dims_.tp * dims_.vocab;
    samples.push_back(entry.sample);
  }
  std::vector<SampleCandidate> chosen(filters.size());
  RETURN_IF_ERROR(backend_->SampleFiltered(
      {.rows = filters, .vocab = dims_.vocab, .best = chosen.data(), .scratch = scratch_}));
  for (size_t i = 0; i < samples.size(); ++i) best[samples[i]] = chosen[i];
  return absl::OkStatus();
}

absl::Status RowSampler::Exchange(const Batch& batch, const float* logits) {
  const int64_t rows = static_cast<int64_t>(batch.filtered.size());
  const int64_t width = dims_.vocab_ids.size();
  const int64_t mine = OwnedBy(dims_.at.tp, rows);
  std::vector<absl::Span<const std::byte>> send;
  std::vector<absl::Span<std::byte>> recv;
  float* to = sent_;
  float* from = received_;
  for (int t = 0; t < dims_.tp; ++t) {
    for (int64_t j = t; j < rows; j += dims_.tp) {
      // Not memcpy: a rank may have no ids, and then no memory for them.
      std::copy_n(logits + batch.filtered[j].sample * width, width, to + j / dims_.tp * width);
    }
    send.push_back(FloatBytes(to, OwnedBy(t, rows) * width));
    to += OwnedBy(t, rows) * width;
    recv.push_back(MutableFloatBytes(from, mine * ids_of_[t].size()));
    from += mine * ids_of_[t].size();
  }
  RETURN_IF_ERROR(exchange_->AllToAll(Domain::kTp, v1::COLLECTIVE_TAG_SAMPLE_ROWS, 0, send, recv));
  from = received_;
  for (const Range& ids : ids_of_) {
    CopyMatrix(mine, ids.size(), from, ids.size(), whole_ + ids.begin, dims_.vocab);
    from += mine * ids.size();
  }
  return absl::OkStatus();
}

}  // namespace whalepod
