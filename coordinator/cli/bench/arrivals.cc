#include "coordinator/cli/bench/arrivals.h"

#include <cmath>
#include <numbers>

namespace whalepod {
namespace {

double Normal(std::mt19937_64& random) {
  const double radius = std::sqrt(-2 * std::log(UniformReal(random)));
  return radius * std::cos(2 * std::numbers::pi * UniformReal(random));
}

}  // namespace

double UniformReal(std::mt19937_64& random) {
  return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53;
}

int64_t UniformInt(std::mt19937_64& random, int64_t low, int64_t high) {
  // Modulo and not a distribution: the bias is below 2^-32 for what is asked here.
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

double Gamma(std::mt19937_64& random, double shape) {
  if (shape < 1) {
    // In logarithms: with a small shape the power alone is below the smallest double.
    const double power = std::log(UniformReal(random)) / shape;
    return std::exp(power + std::log(Gamma(random, shape + 1)));
  }
  const double d = shape - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = Normal(random);
    const double v = std::pow(1 + c * x, 3);
    if (v <= 0) continue;
    if (std::log(UniformReal(random)) < x * x / 2 + d - d * v + d * std::log(v)) return d * v;
  }
}

std::vector<double> ArrivalTimes(const ArrivalOptions& options) {
  std::vector<double> times(options.count, 0.0);
  if (options.count == 0 || std::isinf(options.rate)) return times;
  std::mt19937_64 random(options.seed);
  double at = 0;
  for (double& time : times) time = at += Gamma(random, options.burstiness);
  const double stretch = static_cast<double>(options.count) / options.rate / at;
  for (double& time : times) time *= stretch;
  return times;
}

}  // namespace whalepod
