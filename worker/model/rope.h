// Rotary position tables with YaRN, and the softmax scale that goes with them.
#pragma once

#include <cstdint>
#include <vector>

#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// Angle per position of each rotated pair, [qk_rope_head_dim / 2]: base^(-2i/d), under YaRN blended
// with its `factor`-th part between the dimensions that turn beta_fast and beta_slow times within
// the original context.
std::vector<double> RopeFrequencies(const v1::ModelSpec& model);

// The multiplier on cos and sin: the config's attention_factor where it states one, else
// m(mscale) / m(mscale_all_dim) where both are stated, else m(1); m(k) = 0.1 k ln(factor) + 1.
// 1 without YaRN.
double RopeMagnitude(const v1::ModelSpec& model);

// (nope + rope)^-1/2, times m(mscale_all_dim)^2 under YaRN, at every length of context.
float AttentionScale(const v1::ModelSpec& model);

// Fills cos and sin, [positions, qk_rope_head_dim / 2] each; computed in double.
void FillRopeTables(const v1::ModelSpec& model, int64_t positions, float* cos, float* sin);

}  // namespace whalepod
