// Sizes of communication buffers: worker/comm's, written down again for planners. What each
// exchange moves is in schedule.cc.
#include <algorithm>

#include "absl/strings/match.h"
#include "base/units.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

// Sizes of worker/comm's structures; a test compares.
constexpr int64_t kLine = 64;
constexpr int64_t kRegionHeader = 1152;
constexpr int64_t kGlooPieceHeader = 32;

int HostOf(const v1::ShardingPlan& header, int64_t rank) {
  int host = 0;
  for (int64_t devices = 0; host + 1 < header.hosts_size(); ++host) {
    devices += header.hosts(host).devices();
    if (rank < devices) break;
  }
  return host;
}

// Ranks are dealt out to hosts in order, and a group's ranks ascend.
bool SpansHosts(const v1::ShardingPlan& header, const v1::Group& group) {
  if (group.ranks_size() == 0 || header.hosts_size() == 0) return false;
  const int first = HostOf(header, group.ranks(0));
  const int last = HostOf(header, group.ranks(group.ranks_size() - 1));
  for (int host = first + 1; host <= last; ++host) {
    if (header.hosts(host).name() != header.hosts(first).name()) return true;
  }
  return false;
}

bool OnGpus(const v1::ShardingPlan& header) {
  return header.hosts_size() > 0 && header.hosts(0).device_name() != "cpu" &&
         !header.hosts(0).device_name().empty();
}

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
    const int64_t inputs = model.q_lora_rank() + model.kv_lora_rank() + model.qk_rope_head_dim();
    const int64_t vocab_slice = VocabIdsOf(model, layout, 0).size();  // the longest
    bytes = std::max({tokens * hidden * 4, tokens * inputs * 4, tokens * kSampleRowBytes,
                      runtime.max_num_seqs() * vocab_slice * 4});
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

int64_t SharedMemoryOutboxBytes(int64_t ranks, int64_t max_bytes) {
  // Each part of an all-to-all begins on its own line.
  return RoundUp(std::max<int64_t>(max_bytes, 1), kLine) + ranks * kLine;
}

int64_t SharedMemoryGroupBytes(int64_t ranks, int64_t max_bytes) {
  // A line a rank; in each of two rounds a slot for each pair and an outbox a rank.
  return kRegionHeader + ranks * kLine + 2 * ranks * ranks * kLine +
         2 * ranks * SharedMemoryOutboxBytes(ranks, std::min(max_bytes, kMaxOutboxBytes));
}

int64_t GlooGroupBytes(int64_t ranks, int64_t max_bytes) {
  // Two pieces in each direction.
  const int64_t piece = std::clamp<int64_t>(max_bytes, 1, kMaxGlooPieceBytes);
  return 4 * (ranks - 1) * (kGlooPieceHeader + piece);
}

int64_t CommBytes(const v1::ShardingPlan& header, const v1::RankPart& part) {
  int64_t bytes = 0;
  for (uint32_t index : part.groups()) {
    const int64_t most = MaxContribution(header, static_cast<int>(index));
    const v1::Group& group = header.groups(static_cast<int>(index));
    const int64_t ranks = group.ranks_size();
    if (OnGpus(header)) {
      bytes += 2 * most;
    } else if (SpansHosts(header, group)) {
      bytes += GlooGroupBytes(ranks, most);
    } else {
      bytes += CeilDiv(SharedMemoryGroupBytes(ranks, most), std::max<int64_t>(1, ranks));
    }
  }
  return bytes;
}

}  // namespace whalepod
