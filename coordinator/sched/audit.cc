#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/sched/scheduler.h"

namespace whalepod {

absl::Status Scheduler::Audit() const {
  uint64_t waiting = 0, waiting_tokens = 0, running = 0;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence.state == State::kWaiting) {
      ++waiting;
      waiting_tokens += sequence.known();
    }
    if (sequence.state == State::kRunning) ++running;
    if (sequence.state != State::kRunning && !sequence.blocks.empty()) {
      return absl::InternalError(absl::StrCat("sequence ", id, " does not run and has ",
                                              sequence.blocks.size(), " blocks"));
    }
  }
  if (waiting != waiting_.size() || waiting_tokens != waiting_tokens_ ||
      running != Stats().running) {
    return absl::InternalError(absl::StrCat(
        "counted ", waiting, " waiting with ", waiting_tokens, " tokens and ", running,
        " running; kept ", waiting_.size(), ", ", waiting_tokens_, " and ", Stats().running));
  }
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    RETURN_IF_ERROR(Annotate(AuditGroup(g), absl::StrCat("DP group ", g)));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::AuditGroup(uint32_t g) const {
  const Group& group = groups_[g];
  std::vector<uint32_t> owners(group.pool.total(), 0);
  uint32_t decoding = 0;
  uint64_t live_blocks = 0, prefill_left = 0;
  std::vector<bool> taken(config_.max_num_seqs, false);
  for (const auto& [place, sequence] : group.running) {
    if (sequence->state != State::kRunning || sequence->group != g || sequence->place != place ||
        taken[sequence->slot]) {
      return absl::InternalError(absl::StrCat("sequence ", sequence->id, " in slot ",
                                              sequence->slot, " should not run there"));
    }
    taken[sequence->slot] = true;
    if (sequence->since != 0) {
      ++decoding;
    } else {
      prefill_left += sequence->known() - sequence->computed;
    }
    const uint32_t computed = Computed(*sequence);
    const size_t blocks = sequence->blocks.size();
    if (blocks < BlocksFor(computed) || blocks > BlocksFor(std::max(computed, sequence->known()))) {
      return absl::InternalError(absl::StrCat("sequence ", sequence->id, " computes ", computed,
                                              " of ", sequence->known(), " tokens in ", blocks,
                                              " blocks"));
    }
    live_blocks += sequence->blocks.size();
    for (const uint32_t block : sequence->blocks) ++owners[block];
  }
  for (uint32_t block = 0; block < owners.size(); ++block) {
    if (owners[block] != group.pool.owners(block)) {
      return absl::InternalError(absl::StrCat("block ", block, " has ", owners[block],
                                              " owners, kept ", group.pool.owners(block)));
    }
  }
  const uint64_t owned = owners.size() - std::count(owners.begin(), owners.end(), 0u);
  if (group.running.size() + group.free_slots.size() != config_.max_num_seqs ||
      decoding != group.decoding || live_blocks != group.live_blocks ||
      prefill_left != group.prefill_left || owned != group.pool.owned()) {
    return absl::InternalError(
        absl::StrCat(group.running.size(), " run beside ", group.free_slots.size(),
                     " free slots of ", config_.max_num_seqs, "; counted ", decoding, " decoding, ",
                     live_blocks, " blocks in use, ", owned, " owned, ", prefill_left,
                     " prompt tokens left; kept ", group.decoding, ", ", group.live_blocks, ", ",
                     group.pool.owned(), ", ", group.prefill_left));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
