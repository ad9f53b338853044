#include "worker/model/embedding.h"

#include <cstring>

#include "base/check.h"
#include "base/status.h"

namespace whalepod {

EmbeddingBlock::EmbeddingBlock(const Dims& d, const v1::ModelSpec& model, const v1::Layout& layout,
                               Backend* backend, ScheduledExchange* exchange,
                               ActivationArena& arena)
    : dims_(d), backend_(backend), exchange_(exchange) {
  for (int t = 0; t < d.tp; ++t) ids_of_.push_back(VocabIdsOf(model, layout, t));
  if (d.tp > 1) gathered_ = arena.Take<float>(d.max_tokens * d.hidden);
}

int EmbeddingBlock::OwnerOf(int32_t id) const {
  for (int t = 0; t < dims_.tp; ++t) {
    if (id >= ids_of_[t].begin && id < ids_of_[t].end) return t;
  }
  CHECK(false);  // the executor has checked the id
  return 0;
}

absl::Status EmbeddingBlock::Run(const PlainTensor& table, const Batch& batch, float* h) {
  const Dims& d = dims_;
  EmbedArgs args{.tokens = batch.tokens,
                 .ids = batch.ids.data(),
                 .table = table.data,
                 .table_type = table.dtype,
                 .vocab0 = d.vocab_ids.begin,
                 .rows = d.vocab_ids.size(),
                 .hidden = d.hidden,
                 .out = h};
  if (d.tp == 1) return backend_->Embed(args);

  std::vector<int> owner(batch.tokens);
  std::vector<int64_t> rows(d.tp, 0);
  own_.clear();
  for (int64_t i = 0; i < batch.tokens; ++i) {
    owner[i] = OwnerOf(batch.ids[i]);
    ++rows[owner[i]];
    if (owner[i] == d.at.tp) own_.push_back(batch.ids[i]);
  }
  std::vector<int64_t> bytes(d.tp);
  std::vector<float*> next(d.tp);  // first row of each owner, then the next one to take
  float* place = gathered_;
  for (int t = 0; t < d.tp; ++t) {
    next[t] = place;
    place += rows[t] * d.hidden;
    bytes[t] = rows[t] * d.hidden * static_cast<int64_t>(sizeof(float));
  }
  args.tokens = rows[d.at.tp];
  args.ids = own_.data();
  args.out = next[d.at.tp];
  RETURN_IF_ERROR(backend_->Embed(args));
  RETURN_IF_ERROR(exchange_->AllGather(
      Domain::kTp, v1::COLLECTIVE_TAG_EMBED, 0,
      {reinterpret_cast<const std::byte*>(args.out), static_cast<size_t>(bytes[d.at.tp])}, bytes,
      {reinterpret_cast<std::byte*>(gathered_),
       static_cast<size_t>(batch.tokens * d.hidden) * sizeof(float)}));
  for (int64_t i = 0; i < batch.tokens; ++i) {
    std::memcpy(h + i * d.hidden, next[owner[i]], d.hidden * sizeof(float));
    next[owner[i]] += d.hidden;
  }
  return absl::OkStatus();
}

}  // namespace whalepod
