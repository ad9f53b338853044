// Sizes of communication buffers; what each exchange moves is in schedule.cc.
#include <algorithm>

#include "absl/strings/match.h"
#include "base/units.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

// A sampled row: the best candidate, 16 segments' maximum and sum, and up to 20 best of 12 bytes.
constexpr int64_t kSampleRowBytes = 12 + kVocabularySegments * 8 + 20 * 12;

}  // namespace

int64_t MaxContribution(const v1::ShardingPlan& header, int group) {
  const v1::ModelSpec& model = header.model();
  const v1::Layout& layout = header.layout();
  const v1::RuntimeSpec& runtime = header.runtime();
  const int64_t tokens = runtime.max_num_batched_tokens();
  const int64_t hidden = model.hidden_size();
  const int64_t act = DTypeBytes(runtime.compute_dtype());
  const int64_t top_k = model.num_experts_per_tok();
  const std::string& name = header.groups(group).name();
  int64_t bytes = 0;
  if (absl::StartsWith(name, "tp")) {
    bytes = std::max(tokens * hidden * 4, runtime.max_num_seqs() * kSampleRowBytes);
  } else if (absl::StartsWith(name, "moe_tp")) {
    bytes = tokens * layout.dp() * top_k * CeilDiv(model.moe_intermediate_size(), layout.moe_tp()) *
            act;
  } else {
    const int64_t dispatch = tokens * (RoundUp(hidden * act, 4) + top_k * 8);
    const int64_t combine = tokens * layout.dp() * CeilDiv(hidden, layout.moe_tp()) * 4;
    bytes = std::max(dispatch, combine);
  }
  return RoundUp(bytes + 4096, 4096);
}

int64_t CommBytes(const v1::ShardingPlan& header, const v1::RankPart& part) {
  int64_t bytes = 0;
  for (uint32_t group : part.groups()) bytes += 2 * MaxContribution(header, group);
  return bytes;
}

}  // namespace whalepod
