// Where a rank stands, and the shape of every sum that is cut between ranks (docs/numbers.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Coordinates of a global rank: world ranks are numbered replica-major, then stage, then position.
struct RankCoords {
  int replica = 0, pp = 0;
  int dp = 0, tp = 0;
  int ep = 0, moe_tp = 0;
};

int WorldSize(const v1::Layout& layout);    // of the whole deployment
int ReplicaSize(const v1::Layout& layout);  // dp * tp of one stage
RankCoords CoordsOf(const v1::Layout& layout, int rank);

// Layer `layer` has routed experts (else a dense FFN).
bool HasExperts(const v1::ModelSpec& model, int64_t layer);
int64_t DenseLayers(const v1::ModelSpec& model);
int64_t MoeLayers(const v1::ModelSpec& model);

// Segments a row-parallel product's K is cut into: the largest power of two <= 16 that leaves
// segments of a multiple of `granule` columns (32; for o_proj a multiple of v_head_dim as well).
int64_t KSegments(int64_t k, int64_t granule);
int64_t OProjSegments(const v1::ModelSpec& model);
int64_t DenseDownSegments(const v1::ModelSpec& model);
int64_t SharedDownSegments(const v1::ModelSpec& model);

struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};
// Part `index` of `parts` of [0, n): sizes differ by at most one, larger ones first.
Range EvenPart(int64_t n, int parts, int index);
// The same in units of 32, the outputs of a packed panel (kernels/packing.h); the last panel may be
// short, and parts beyond the panels are empty.
Range PanelPart(int64_t n, int parts, int index);
constexpr int kVocabularySegments = 16;
// Vocabulary ids of TP rank `tp`: whole segments (16 of ceil(V/16) rounded up to 32 ids).
Range VocabSegmentsOf(const v1::Layout& layout, int tp);  // segments
Range VocabIdsOf(const v1::ModelSpec& model, const v1::Layout& layout, int tp);
// Columns of the hidden state that TP rank `tp` sums and owns: EvenPart(hidden, tp, index).
// Columns of expert outputs that moe_tp rank `m` makes: EvenPart(hidden, moe_tp, index).

// Experts of EP group `ep`, ascending.
std::vector<int> ExpertsOf(const v1::Layout& layout, int ep);

}  // namespace whalepod
