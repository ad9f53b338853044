#include "worker/model/forward.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/model/arena.h"
#include "worker/model/embedding.h"
#include "worker/model/exchange.h"
#include "worker/model/ffn.h"
#include "worker/model/layer_weights.h"
#include "worker/model/mla.h"
#include "worker/model/moe.h"
#include "worker/model/rope.h"

namespace whalepod {
namespace {

class DeepSeekV3 : public Forward {
 public:
  DeepSeekV3(const Options& options, Dims dims) : options_(options), dims_(std::move(dims)) {}

  const Dims& dims() const override { return dims_; }
  int64_t activation_bytes() const override { return needed_; }

  // Looks up the weights and makes the exchange.
  absl::Status Bind();
  // Places the buffers of all blocks in the activation arena.
  absl::Status Carve();
  absl::StatusOr<std::vector<Sampled>> Run(const Batch& batch, const LatentPool& pool,
                                           TimePoint deadline) override;
  std::optional<v1::ExpertLoad> TakeExpertLoad() override;

 private:
  const Options options_;
  const Dims dims_;
  std::unique_ptr<ScheduledExchange> exchange_;
  int64_t needed_ = 0;

  PlainTensor embedding_;   // [vocab_ids, hidden]
  PlainTensor final_norm_;  // [hidden]
  PackedMatrix head_;       // [vocab_ids, hidden]
  std::vector<LayerWeights> layers_;

  float* h_ = nullptr;  // [T, hidden]: the residual stream
  std::optional<SliceExchange> slices_;
  std::optional<EmbeddingBlock> embed_;
  std::optional<MlaBlock> mla_;
  std::optional<DenseFfnBlock> dense_;
  std::optional<MoeBlock> moe_;
  std::optional<HeadBlock> sampler_;
};

absl::Status DeepSeekV3::Bind() {
  ASSIGN_OR_RETURN(exchange_,
                   ScheduledExchange::Create(*options_.part, dims_, options_.communicators));
  const WeightMap& weights = *options_.weights;
  const int64_t rows = dims_.vocab_ids.size();
  ASSIGN_OR_RETURN(embedding_, BindPlain(weights, v1::TENSOR_ROLE_EMBED, 0, rows, dims_.hidden));
  ASSIGN_OR_RETURN(final_norm_, BindPlain(weights, v1::TENSOR_ROLE_FINAL_NORM, 0, 1, dims_.hidden));
  ASSIGN_OR_RETURN(head_, BindMatrix(weights, v1::TENSOR_ROLE_LM_HEAD, 0, 0, rows, dims_.hidden));
  for (int64_t layer = 0; layer < dims_.layers; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights bound, BindLayer(dims_, weights, layer));
    layers_.push_back(std::move(bound));
  }
  return absl::OkStatus();
}

// Buffers of the rope tables, the residual stream and the slice exchange live for the whole step;
// those of the blocks share one place, since blocks run one after another. The sizes are repeated
// in proto/plan/activation_bytes.cc.
absl::Status DeepSeekV3::Carve() {
  const v1::ShardingPlan& plan = options_.part->header();
  ActivationArena arena(options_.activations, options_.activation_bytes);
  float* cos = arena.Take<float>(dims_.max_positions * (dims_.rope / 2));
  float* sin = arena.Take<float>(dims_.max_positions * (dims_.rope / 2));
  h_ = arena.Take<float>(dims_.max_tokens * dims_.hidden);
  slices_.emplace(dims_, options_.backend, exchange_.get(), arena);
  const int64_t shared = arena.mark();
  embed_.emplace(dims_, plan.model(), plan.layout(), options_.backend, exchange_.get(), arena);
  arena.Reset(shared);
  mla_.emplace(dims_, options_.backend, exchange_.get(), &*slices_, RopeTables{cos, sin}, arena);
  bool any_dense = false, any_moe = false;
  for (const LayerWeights& layer : layers_) (layer.is_moe ? any_moe : any_dense) = true;
  if (any_dense) {
    arena.Reset(shared);
    dense_.emplace(dims_, options_.backend, &*slices_, arena);
  }
  if (any_moe) {
    arena.Reset(shared);
    moe_.emplace(dims_, options_.backend, exchange_.get(), &*slices_, options_.observer, arena);
  }
  arena.Reset(shared);
  sampler_.emplace(dims_, plan.model(), plan.layout(), options_.backend, exchange_.get(),
                   options_.observer, arena);
  needed_ = arena.needed();
  if (needed_ > options_.activation_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "activation arena of rank ", options_.part->part().rank(), ": the forward needs ", needed_,
        " bytes with ", options_.backend->Threads(), " threads, the plan gives ",
        options_.activation_bytes, " for ", plan.runtime().threads_per_rank(), " threads"));
  }
  FillRopeTables(plan.model(), dims_.max_positions, cos, sin);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Sampled>> DeepSeekV3::Run(const Batch& batch, const LatentPool& pool,
                                                     TimePoint deadline) {
  exchange_->BeginStep(deadline);
  RETURN_IF_ERROR(embed_->Run(embedding_, batch, h_));
  for (int64_t l = 0; l < dims_.layers; ++l) {
    const LayerWeights& w = layers_[l];
    RETURN_IF_ERROR(mla_->Run(l, w.attention, pool.Layer(l), batch, h_));
    if (w.is_moe) {
      RETURN_IF_ERROR(moe_->Run(l, w.post_norm, w.moe, batch, h_));
    } else {
      RETURN_IF_ERROR(dense_->Run(l, w.post_norm, w.dense, batch.tokens, h_));
    }
  }
  ASSIGN_OR_RETURN(std::vector<Sampled> sampled, sampler_->Run(final_norm_, head_, batch, h_));
  RETURN_IF_ERROR(exchange_->EndStep());
  return sampled;
}

std::optional<v1::ExpertLoad> DeepSeekV3::TakeExpertLoad() {
  // Ranks of a moe_tp group hold slices of the same experts: their counts are equal.
  if (!moe_.has_value() || dims_.at.moe_tp != 0 || dims_.local_experts.empty()) {
    return std::nullopt;
  }
  const int64_t experts = dims_.local_experts.size();
  v1::ExpertLoad load;
  load.set_experts(static_cast<uint32_t>(experts));
  for (int64_t l = 0; l < dims_.layers; ++l) {
    if (!layers_[l].is_moe) continue;
    uint64_t tokens = 0, most = 0;
    for (int64_t e = l * experts; e < (l + 1) * experts; ++e) {
      tokens += moe_->load()[e];
      most = std::max(most, moe_->load()[e]);
    }
    load.add_layers(static_cast<uint32_t>(options_.part->part().layer_begin() + l));
    load.add_tokens(tokens);
    load.add_most(most);
  }
  moe_->ClearLoad();
  return load;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Forward>> Forward::Create(const Options& options) {
  ASSIGN_OR_RETURN(Dims dims, Dims::Of(*options.part));
  auto forward = std::make_unique<DeepSeekV3>(options, std::move(dims));
  RETURN_IF_ERROR(forward->Bind());
  RETURN_IF_ERROR(forward->Carve());
  return forward;
}

}  // namespace whalepod
