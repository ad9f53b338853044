#include "coordinator/cli/status_text.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/units.h"

namespace whalepod {
namespace {

// "weights 1.20 MiB, kv 2.00 MiB as planned; reserve 1.00 MiB planned".
std::string MemoryText(const v1::RankStatus& rank) {
  std::vector<std::string> same, other, planned;
  for (const v1::MemoryStatus& item : rank.memory()) {
    const std::string plan = FormatBytes(item.planned_bytes());
    if (!item.has_actual_bytes()) {
      planned.push_back(absl::StrCat(item.name(), " ", plan));
    } else if (item.actual_bytes() == item.planned_bytes()) {
      same.push_back(absl::StrCat(item.name(), " ", plan));
    } else {
      other.push_back(absl::StrCat(item.name(), " ", FormatBytes(item.actual_bytes()),
                                   " where planned were ", plan));
    }
  }
  std::vector<std::string> parts;
  if (!same.empty()) parts.push_back(absl::StrCat(absl::StrJoin(same, ", "), " as planned"));
  if (!other.empty()) parts.push_back(absl::StrJoin(other, ", "));
  if (!planned.empty()) parts.push_back(absl::StrCat(absl::StrJoin(planned, ", "), " planned"));
  return absl::StrJoin(parts, "; ");
}

std::string RankText(const v1::RankStatus& rank) {
  if (rank.worker().empty()) return absl::StrCat("rank ", rank.rank(), ": no worker\n");
  std::string text = absl::StrFormat("rank %u: %s, worker %s on %s, pid %d, heard %u ms ago",
                                     rank.rank(), rank.phase(), rank.worker(), rank.host(),
                                     rank.pid(), rank.heartbeat_age_ms());
  if (rank.load_bytes_done() < rank.load_bytes_total()) {
    absl::StrAppend(&text, ", ", FormatBytes(rank.load_bytes_done()), " of ",
                    FormatBytes(rank.load_bytes_total()), " loaded at ",
                    FormatBytes(static_cast<int64_t>(rank.load_bytes_per_second())), "/s");
  } else if (rank.step_done() > 0) {
    absl::StrAppend(&text, ", step ", rank.step_done());
  }
  const std::string memory = MemoryText(rank);
  return absl::StrCat(text, "\n", memory.empty() ? "" : absl::StrCat("  memory: ", memory, "\n"));
}

}  // namespace

std::string StatusText(const v1::GetStatusResponse& status, const v1::GetModelResponse& model) {
  std::string text = status.state();
  if (!status.message().empty()) absl::StrAppend(&text, ": ", status.message());
  absl::StrAppendFormat(&text, "\nmodel %s, layout %s, context %u, epoch %u, steps %u\n",
                        model.model(), model.layout(), model.max_model_len(), status.epoch(),
                        status.steps());
  absl::StrAppendFormat(&text, "requests: %u running, %u waiting\n", status.running(),
                        status.waiting());
  if (status.rate_seconds() > 0) {
    absl::StrAppendFormat(&text,
                          "rates over %.1f s: %.1f tokens/s generated, %.1f prompt tokens/s, %.2f "
                          "requests/s\n",
                          status.rate_seconds(), status.generation_tokens_per_second(),
                          status.prompt_tokens_per_second(), status.requests_per_second());
  }
  if (status.kv_blocks_total() > 0) {
    absl::StrAppendFormat(&text, "KV: %u of %u blocks used (%.1f %%), of %u tokens each\n",
                          status.kv_blocks_used(), status.kv_blocks_total(),
                          100.0 * status.kv_blocks_used() / status.kv_blocks_total(),
                          status.kv_block_tokens());
  }
  for (const v1::RankStatus& rank : status.ranks()) absl::StrAppend(&text, RankText(rank));
  return text;
}

}  // namespace whalepod
