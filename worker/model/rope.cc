#include "worker/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace whalepod {
namespace {

double YarnMagnitude(double factor, double k) {
  return factor <= 1 ? 1.0 : 0.1 * k * std::log(factor) + 1.0;
}

// The (fractional) pair that turns `rotations` times within the original context.
double CorrectionDim(const v1::ModelSpec& model, double rotations) {
  const double context = static_cast<double>(model.yarn().original_max_position_embeddings());
  return model.qk_rope_head_dim() * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(model.rope_theta()));
}

}  // namespace

std::vector<double> RopeFrequencies(const v1::ModelSpec& model) {
  const int64_t dim = model.qk_rope_head_dim();
  std::vector<double> frequency(dim / 2);
  for (int64_t i = 0; i < dim / 2; ++i) {
    frequency[i] = std::pow(model.rope_theta(), -2.0 * static_cast<double>(i) / dim);
  }
  if (!model.has_yarn()) return frequency;

  const v1::YarnScaling& yarn = model.yarn();
  double low = CorrectionDim(model, yarn.beta_fast());
  double high = CorrectionDim(model, yarn.beta_slow());
  if (yarn.truncate()) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (int64_t i = 0; i < dim / 2; ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = frequency[i] * (1 - ramp) + frequency[i] / yarn.factor() * ramp;
  }
  return frequency;
}

double RopeMagnitude(const v1::ModelSpec& model) {
  if (!model.has_yarn()) return 1.0;
  const v1::YarnScaling& yarn = model.yarn();
  if (yarn.attention_factor() != 0) return yarn.attention_factor();
  if (yarn.mscale() != 0 && yarn.mscale_all_dim() != 0) {
    return YarnMagnitude(yarn.factor(), yarn.mscale()) /
           YarnMagnitude(yarn.factor(), yarn.mscale_all_dim());
  }
  return YarnMagnitude(yarn.factor(), 1.0);
}

float AttentionScale(const v1::ModelSpec& model) {
  double scale =
      1.0 / std::sqrt(static_cast<double>(model.qk_nope_head_dim() + model.qk_rope_head_dim()));
  if (model.has_yarn() && model.yarn().mscale_all_dim() != 0) {
    const double m = YarnMagnitude(model.yarn().factor(), model.yarn().mscale_all_dim());
    scale *= m * m;
  }
  return static_cast<float>(scale);
}

void FillRopeTables(const v1::ModelSpec& model, int64_t positions, float* cos, float* sin) {
  const std::vector<double> frequency = RopeFrequencies(model);
  const double magnitude = RopeMagnitude(model);
  const int64_t half = static_cast<int64_t>(frequency.size());
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequency[i];
      cos[p * half + i] = static_cast<float>(std::cos(angle) * magnitude);
      sin[p * half + i] = static_cast<float>(std::sin(angle) * magnitude);
    }
  }
}

}  // namespace whalepod
