// LogSumExp of kernels/ops.h: small, and the same for every backend, so it is computed on the path
// that every processor has.
#define WHALEPOD_ISA portable
#define WHALEPOD_ISA_PORTABLE 1

#include "base/check.h"
#include "kernels/cpu/math.h"
#include "kernels/ops.h"

namespace whalepod {

float LogSumExp(absl::Span<const float> segment_max, absl::Span<const float> segment_sum) {
  using namespace cpu::portable;  // NOLINT: the operators of its vectors
  static_assert(kVocabSegments == 16, "one segment a lane");
  CHECK(segment_max.size() == kVocabSegments && segment_sum.size() == kVocabSegments);
  const F32x16 maxima = Load(segment_max.data());
  if (Any(IsNan(maxima))) return __builtin_nanf("");
  const float max = ReduceMax(maxima);
  if (max == -__builtin_inff()) return max;  // no id has any probability
  const float sum = ReduceTree(Exp(maxima - Set(max)) * Load(segment_sum.data()));
  float lanes[16];
  Store(lanes, Set(max) + Log(Set(sum)));
  return lanes[0];
}

}  // namespace whalepod
