#include "tests/worker/model/mutant_backend.h"

#include <algorithm>
#include <vector>

#include "base/status.h"

namespace whalepod::testing {

absl::Status MutantBackend::DoGroupedMatMul(const GroupedMatMulArgs& args) {
  RETURN_IF_ERROR(inner_->GroupedMatMul(args));
  if (mutation_ != Mutation::kExpertError || args.row_index != nullptr) return absl::OkStatus();
  for (int64_t s = args.offsets[0]; s < args.offsets[1]; ++s) {  // down products only
    float* row = static_cast<float*>(args.c) + s * args.ldc;
    for (int64_t i = 0; i < args.w[0].n; ++i) row[i] *= 1.001f;
  }
  return absl::OkStatus();
}

absl::Status MutantBackend::DoRope(const RopeArgs& args) {
  if (mutation_ != Mutation::kShiftedRope || args.heads == 1) return inner_->Rope(args);
  std::vector<int32_t> positions(args.positions, args.positions + args.tokens);
  for (int32_t& position : positions) ++position;
  RopeArgs shifted = args;
  shifted.positions = positions.data();
  return inner_->Rope(shifted);
}

absl::Status MutantBackend::DoTreeAdd(const TreeAddArgs& args) {
  if (mutation_ != Mutation::kRotatedReduction) return inner_->TreeAdd(args);
  std::vector<const float*> partials(args.partials.begin(), args.partials.end());
  std::rotate(partials.begin(), partials.begin() + 1, partials.end());
  TreeAddArgs rotated = args;
  rotated.partials = partials;
  return inner_->TreeAdd(rotated);
}

}  // namespace whalepod::testing
