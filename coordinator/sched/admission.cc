// Who starts, where, and who makes room for it.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "coordinator/sched/scheduler.h"

namespace whalepod {
namespace {

// In the choice of a DP group a running sequence weighs as much as this many prompt tokens.
constexpr uint64_t kSequenceWeight = 64;
// Of a group's blocks this share stays free when a sequence starts beside others, which will soon
// want more.
constexpr uint32_t kReserveShare = 64;

}  // namespace

// The queue's first starts or nobody does: a large request is not overtaken for ever.
void Scheduler::AdmitWaiting(Making* making) {
  while (const std::optional<uint64_t> id = waiting_.Next(making->now)) {
    Sequence* const sequence = &sequences_.at(*id);
    Start start = FindStart(sequence);
    if (start.group == nullptr && MakeRoom(*sequence, making)) start = FindStart(sequence);
    if (start.group == nullptr) return;
    Admit(sequence, start, making);
  }
}

// Among the groups that can start it in this step, the one with the least to do, what it finds in
// the group's prefix cache taken off.
Scheduler::Start Scheduler::FindStart(Sequence* sequence) {
  if (config_.prefix_cache) ExtendKeys(sequence);
  Start best;
  uint64_t least = 0;
  for (Group& group : groups_) {
    Start start;
    if (!CanStart(*sequence, &group, &start)) continue;
    const uint64_t load = group.prefill_left + kSequenceWeight * group.running.size() +
                          sequence->known() - start.shared.size() * config_.block_tokens;
    if (best.group != nullptr && load >= least) continue;
    best = std::move(start);
    least = load;
  }
  return best;
}

// Logprobs of the prompt need all its tokens computed.
bool Scheduler::MayUseCache(const Sequence& sequence) const {
  return config_.prefix_cache &&
         !(sequence.sampling.has_prompt_logprobs() && sequence.sampled == 0);
}

uint32_t Scheduler::ReserveOf(const Group& group) const {
  return group.running.empty() ? 0 : std::max(1u, group.pool.total() / kReserveShare);
}

bool Scheduler::CanStart(const Sequence& sequence, Group* group, Start* start) const {
  if (group->running.size() == config_.max_num_seqs ||
      group->pool.total() < BlocksFor(sequence.prompt_len + sequence.sampling.max_tokens())) {
    return false;
  }
  std::vector<uint32_t> shared;
  if (MayUseCache(sequence)) {
    // The last token is computed in any case: what follows it is sampled from its row.
    const uint32_t whole = (sequence.known() - 1) / config_.block_tokens;
    shared = group->pool.Find(absl::MakeConstSpan(sequence.keys).first(whole));
  }
  const auto found = static_cast<uint32_t>(shared.size());
  const uint32_t chunk = ChunkFor(*group, sequence.known() - found * config_.block_tokens);
  const uint32_t needed = BlocksFor(sequence.known()) - found;
  if (chunk == 0 || !group->pool.CanTake(shared, needed + ReserveOf(*group))) return false;
  *start = {group, std::move(shared), chunk};
  return true;
}

// Running sequences of worse priority that stand behind `sequence`, last first, until it could
// start in their place; none if that is not enough.
std::vector<Scheduler::Sequence*> Scheduler::VictimsOf(const Sequence& sequence,
                                                       const Group& group) const {
  if (group.pool.total() < BlocksFor(sequence.prompt_len + sequence.sampling.max_tokens()) ||
      ChunkFor(group, sequence.known()) == 0) {
    return {};
  }
  const uint64_t needed = uint64_t{BlocksFor(sequence.known())} + ReserveOf(group);
  uint64_t room = group.pool.available();
  std::vector<Sequence*> victims;
  for (auto it = group.running.rbegin(); it != group.running.rend(); ++it) {
    if (it->first < sequence.place) break;
    Sequence* const victim = it->second;
    if (victim->priority <= sequence.priority || !MayPreempt(*victim)) continue;
    victims.push_back(victim);
    room += static_cast<uint64_t>(
        std::count_if(victim->blocks.begin(), victim->blocks.end(),
                      [&](uint32_t block) { return group.pool.owners(block) == 1; }));
    if (room >= needed) return victims;
  }
  return {};
}

bool Scheduler::MakeRoom(const Sequence& sequence, Making* making) {
  for (Group& group : groups_) {
    const std::vector<Sequence*> victims = VictimsOf(sequence, group);
    for (Sequence* victim : victims) Preempt(victim, making);
    if (!victims.empty()) return true;
  }
  return false;
}

void Scheduler::Admit(Sequence* sequence, const Start& start, Making* making) {
  Group& group = *start.group;
  Dequeue(sequence);
  sequence->state = State::kRunning;
  sequence->group = static_cast<uint32_t>(&group - groups_.data());
  sequence->slot = group.free_slots.top();
  group.free_slots.pop();
  group.running.emplace(sequence->place, sequence);

  // Shared ones first, or taking the others could end what they cache.
  for (const uint32_t block : start.shared) group.pool.Share(block);
  sequence->blocks = start.shared;
  while (sequence->blocks.size() < BlocksFor(sequence->known())) {
    const std::optional<uint32_t> block = group.pool.Take();
    CHECK(block.has_value());
    sequence->blocks.push_back(*block);
  }
  group.live_blocks += static_cast<uint32_t>(sequence->blocks.size());
  sequence->keyed = static_cast<uint32_t>(start.shared.size());
  sequence->computed = sequence->keyed * config_.block_tokens;
  const uint32_t left = sequence->known() - sequence->computed;
  if (MayUseCache(*sequence)) {
    counters_.prefix_queries += sequence->known();
    counters_.prefix_hits += sequence->computed;
  }
  sequence->admitted = true;
  SetDue(sequence);
  sequence->tenant->served += left;
  group.prefill_left += left;
  group.prefilling.push_back(sequence);
  Announce(*sequence, making);
  RunChunk(sequence, start.chunk, making);
}

void Scheduler::Announce(const Sequence& sequence, Making* making) const {
  v1::NewSequence* added = making->plan.add_new_sequences();
  added->set_sequence(sequence.id);
  added->set_slot(sequence.slot);
  added->set_dp_group(sequence.group);
  added->mutable_tokens()->Add(sequence.tokens.begin(), sequence.tokens.end());
  added->set_prompt_len(sequence.prompt_len);
  added->set_computed(sequence.computed);
  *added->mutable_sampling() = sequence.sampling;
  // They were told before it was preempted.
  if (sequence.sampled > 0) added->mutable_sampling()->clear_prompt_logprobs();
  v1::GrantedBlocks* granted = making->plan.add_granted();
  granted->set_slot(sequence.slot);
  granted->set_dp_group(sequence.group);
  granted->mutable_blocks()->Add(sequence.blocks.begin(), sequence.blocks.end());
}

}  // namespace whalepod
