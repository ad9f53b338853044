#include "proto/plan/layout.h"

#include <algorithm>
#include <numeric>

namespace whalepod {

int ReplicaSize(const v1::Layout& layout) { return layout.dp() * layout.tp(); }

int WorldSize(const v1::Layout& layout) {
  return layout.replicas() * layout.pp() * ReplicaSize(layout);
}

RankCoords CoordsOf(const v1::Layout& layout, int rank) {
  const int size = ReplicaSize(layout);
  const int within = rank % size;
  RankCoords coords;
  coords.replica = rank / (size * layout.pp());
  coords.pp = rank / size % layout.pp();
  coords.dp = within / layout.tp();
  coords.tp = within % layout.tp();
  coords.ep = within / layout.moe_tp();
  coords.moe_tp = within % layout.moe_tp();
  return coords;
}

bool HasExperts(const v1::ModelSpec& model, int64_t layer) {
  return model.n_routed_experts() > 0 && layer >= model.first_k_dense_replace() &&
         layer % std::max<int64_t>(1, model.moe_layer_freq()) == 0;
}

int64_t MoeLayers(const v1::ModelSpec& model) {
  int64_t layers = 0;
  for (int64_t l = 0; l < model.num_hidden_layers(); ++l) layers += HasExperts(model, l);
  return layers;
}

int64_t DenseLayers(const v1::ModelSpec& model) {
  return model.num_hidden_layers() - MoeLayers(model);
}

int64_t KSegments(int64_t k, int64_t granule) {
  for (int64_t segments = 16; segments > 1; segments /= 2) {
    if (k % segments == 0 && k / segments % granule == 0) return segments;
  }
  return 1;
}

int64_t OProjSegments(const v1::ModelSpec& model) {
  return KSegments(model.num_attention_heads() * model.v_head_dim(),
                   std::lcm<int64_t>(32, model.v_head_dim()));
}

int64_t DenseDownSegments(const v1::ModelSpec& model) {
  return KSegments(model.intermediate_size(), 32);
}

int64_t SharedDownSegments(const v1::ModelSpec& model) {
  return KSegments(model.n_shared_experts() * model.moe_intermediate_size(), 32);
}

Range EvenPart(int64_t n, int parts, int index) {
  const int64_t base = n / parts;
  const int64_t extra = n % parts;
  const int64_t begin = index * base + std::min<int64_t>(index, extra);
  return {begin, begin + base + (index < extra ? 1 : 0)};
}

Range PanelPart(int64_t n, int parts, int index) {
  constexpr int64_t kPanel = 32;
  const Range panels = EvenPart((n + kPanel - 1) / kPanel, parts, index);
  return {std::min(n, panels.begin * kPanel), std::min(n, panels.end * kPanel)};
}

Range VocabSegmentsOf(const v1::Layout& layout, int tp) {
  return EvenPart(kVocabularySegments, layout.tp(), tp);
}

Range VocabIdsOf(const v1::ModelSpec& model, const v1::Layout& layout, int tp) {
  const int64_t vocab = model.vocab_size();
  const int64_t share = (vocab + kVocabularySegments - 1) / kVocabularySegments;
  const int64_t segment = (share + 31) / 32 * 32;
  const Range segments = VocabSegmentsOf(layout, tp);
  return {std::min(vocab, segments.begin * segment), std::min(vocab, segments.end * segment)};
}

std::vector<int> ExpertsOf(const v1::Layout& layout, int ep) {
  std::vector<int> experts;
  for (int e = 0; e < layout.expert_to_ep_size(); ++e) {
    if (layout.expert_to_ep(e) == ep) experts.push_back(e);
  }
  return experts;
}

}  // namespace whalepod
