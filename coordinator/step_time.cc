#include "coordinator/step_time.h"

#include <algorithm>

namespace whalepod {
namespace {

constexpr double kBytesPerSecond = 1e9;
constexpr double kFlopsPerSecond = 2e9;

// Multiply-adds of one token in one layer, projections and chosen experts.
double LayerWork(const v1::ModelSpec& m) {
  const double hidden = m.hidden_size();
  const double heads = m.num_attention_heads();
  const double query = heads * (m.qk_nope_head_dim() + m.qk_rope_head_dim());
  const double queries = m.q_lora_rank() > 0 ? m.q_lora_rank() * (hidden + query) : hidden * query;
  const double latent = m.kv_lora_rank() + m.qk_rope_head_dim();
  const double expand = m.kv_lora_rank() * heads * (m.qk_nope_head_dim() + m.v_head_dim());
  const double out = heads * m.v_head_dim() * hidden;
  const double experts =
      3.0 * hidden * m.moe_intermediate_size() * (m.num_experts_per_tok() + m.n_shared_experts());
  const double dense = 3.0 * hidden * m.intermediate_size();
  return queries + hidden * latent + expand + out + std::max(experts, dense);
}

}  // namespace

StepTime::StepTime(const v1::ShardingPlan& plan) {
  for (const v1::RankPart& part : plan.ranks()) {
    double bytes = 0;
    for (const v1::LedgerItem& item : part.ledger().items()) {
      if (item.kind() == v1::LEDGER_KIND_WEIGHTS) bytes += static_cast<double>(item.bytes());
    }
    weight_seconds_ = std::max(weight_seconds_, bytes / kBytesPerSecond);
  }
  const v1::ModelSpec& m = plan.model();
  const double attention = static_cast<double>(m.num_attention_heads()) *
                           (2.0 * m.kv_lora_rank() + m.qk_rope_head_dim()) *
                           static_cast<double>(plan.runtime().max_model_len());
  const double layers = static_cast<double>(m.num_hidden_layers()) * (LayerWork(m) + attention);
  const double head = static_cast<double>(m.vocab_size()) * static_cast<double>(m.hidden_size());
  const double ranks = std::max(1, plan.ranks_size());
  token_seconds_ = 2 * (layers + head) / kFlopsPerSecond / ranks;
}

Duration StepTime::Of(const v1::StepPlan& step) const {
  uint64_t tokens = 0;
  for (const uint32_t group : step.group_tokens()) tokens += group;
  const double seconds = weight_seconds_ + token_seconds_ * static_cast<double>(tokens);
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(seconds, 3600.0)));
}

}  // namespace whalepod
