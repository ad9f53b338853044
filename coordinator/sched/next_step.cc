// Scheduler::NextStep: what leaves, what needs a block, prompts under way. What enters is in
// admission.cc.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "coordinator/sched/scheduler.h"

namespace whalepod {

v1::StepPlan Scheduler::NextStep(TimePoint now) {
  Making making;
  making.now = now;
  making.plan.set_step(++step_);
  making.flight.step = step_;
  making.flight.groups.resize(groups_.size());
  ++counters_.steps;
  for (Group& group : groups_) group.tokens = 0;
  StopEnded(&making);
  FollowCalendar(&making);
  for (Group& group : groups_) ContinuePrefills(&group, &making);
  AdmitWaiting(&making);
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = groups_[g];
    GroupFlight& flight = making.flight.groups[g];
    counters_.prefill_tokens += group.tokens;
    counters_.decode_tokens += group.decoding;
    making.plan.add_group_tokens(group.tokens + group.decoding);
    flight.live_sequences = static_cast<uint32_t>(group.running.size());
    flight.live_blocks = group.live_blocks;
    group.decoding += static_cast<uint32_t>(flight.starts.size());
    std::erase_if(group.prefilling, [](const Sequence* s) { return s->since != 0; });
  }
  in_flight_.push_back(std::move(making.flight));
  return std::move(making.plan);
}

uint32_t Scheduler::Computed(const Sequence& sequence) const {
  const uint64_t rows = sequence.since == 0 ? 0 : step_ - sequence.since;
  return sequence.computed + static_cast<uint32_t>(rows);
}

void Scheduler::StopEnded(Making* making) {
  for (Sequence* sequence : std::exchange(leaving_, {})) {
    Stop(sequence, making);
    Settle(sequence);
  }
}

// The sequence leaves before the step being made; slot and blocks can be used in this very step.
void Scheduler::Stop(Sequence* sequence, Making* making) {
  Group& group = groups_[sequence->group];
  v1::StoppedSequence* stopped = making->plan.add_stopped();
  stopped->set_slot(sequence->slot);
  stopped->set_dp_group(sequence->group);
  making->flight.groups[sequence->group].stops.push_back({sequence->slot, sequence});
  ++sequence->stops;
  if (sequence->since != 0) {
    const auto rows = static_cast<uint32_t>(step_ - 1 - sequence->since);
    sequence->computed += rows;
    sequence->sampled += rows;
    sequence->since = 0;
    --group.decoding;
  } else {
    group.prefill_left -= sequence->known() - sequence->computed;
    std::erase(group.prefilling, sequence);
  }
  OfferBlocks(sequence);
  group.pool.Release(sequence->blocks);
  group.live_blocks -= static_cast<uint32_t>(sequence->blocks.size());
  sequence->blocks.clear();
  group.free_slots.push(sequence->slot);
  group.running.erase(sequence->place);
  sequence->state = State::kDraining;
}

// It will compute all its tokens again, or find them in the prefix cache, and go on.
void Scheduler::Preempt(Sequence* sequence, Making* making) {
  ++counters_.preemptions;
  Stop(sequence, making);
  sequence->preempted = true;
  Settle(sequence);
}

void Scheduler::SetCalendar(Sequence* sequence) {
  const uint64_t stop = sequence->since + sequence->sampling.max_tokens() - sequence->sampled + 1;
  const uint64_t block = sequence->since +
                         sequence->blocks.size() * uint64_t{config_.block_tokens} -
                         sequence->computed + 1;
  sequence->due_step = std::min(stop, block);
  CHECK_LE(sequence->due_step, step_ + config_.block_tokens + 1);
  calendar_[sequence->due_step % calendar_.size()].push_back(sequence->id);
}

// Sequences whose last token is being sampled by the step before this one leave; then those that
// need a block get it, the first in place first.
void Scheduler::FollowCalendar(Making* making) {
  std::vector<Sequence*> growing;
  for (const uint64_t id : std::exchange(calendar_[step_ % calendar_.size()], {})) {
    const auto it = sequences_.find(id);
    if (it == sequences_.end()) continue;
    Sequence& sequence = it->second;
    if (sequence.state != State::kRunning || sequence.since == 0 || sequence.due_step != step_) {
      continue;
    }
    sequence.due_step = 0;
    if (sequence.sampled + (step_ - 1 - sequence.since) < sequence.sampling.max_tokens()) {
      growing.push_back(&sequence);
      continue;
    }
    Stop(&sequence, making);
    Settle(&sequence);
  }
  std::sort(growing.begin(), growing.end(),
            [](const Sequence* a, const Sequence* b) { return a->place < b->place; });
  for (Sequence* sequence : growing) {
    if (sequence->state == State::kRunning) GrantNext(sequence, making);
  }
}

// Takes memory from those who stand last, in the end from the sequence itself.
void Scheduler::GrantNext(Sequence* sequence, Making* making) {
  Group& group = groups_[sequence->group];
  std::optional<uint32_t> block = group.pool.Take();
  while (!block) {
    Sequence* const victim = WorstOf(group);
    Preempt(victim, making);
    if (victim == sequence) return;
    block = group.pool.Take();
  }
  sequence->blocks.push_back(*block);
  ++group.live_blocks;
  sequence->changed_step = step_;
  v1::GrantedBlocks* granted = making->plan.add_granted();
  granted->set_slot(sequence->slot);
  granted->set_dp_group(sequence->group);
  granted->add_blocks(*block);
  SetCalendar(sequence);
}

// The step being made says nothing of it yet, and what it has told of its prompt need not be told
// again.
bool Scheduler::MayPreempt(const Sequence& sequence) const {
  const bool scoring = sequence.sampling.has_prompt_logprobs() && sequence.sampled == 0;
  return sequence.changed_step != step_ && !scoring;
}

Scheduler::Sequence* Scheduler::WorstOf(const Group& group) const {
  for (auto it = group.running.rbegin(); it != group.running.rend(); ++it) {
    if (MayPreempt(*it->second)) return it->second;
  }
  CHECK(false);  // the one that asks for a block can itself be preempted
  return nullptr;
}

uint32_t Scheduler::ChunkFor(const Group& group, uint32_t left) const {
  const uint32_t budget = config_.max_num_batched_tokens - group.tokens - group.decoding;
  const uint32_t chunk = std::min(left, budget);
  return chunk == left || chunk >= config_.min_chunk ? chunk : 0;
}

void Scheduler::ContinuePrefills(Group* group, Making* making) {
  for (Sequence* sequence : group->prefilling) {
    // There is at most one: a prompt that is cut takes all that the step has left, so no other
    // starts beside it. The limits that Create asks for leave it a chunk beside any decodes.
    const uint32_t chunk = ChunkFor(*group, sequence->known() - sequence->computed);
    CHECK_GT(chunk, 0u);
    RunChunk(sequence, chunk, making);
  }
}

void Scheduler::RunChunk(Sequence* sequence, uint32_t tokens, Making* making) {
  Group& group = groups_[sequence->group];
  v1::PrefillChunk* chunk = making->plan.add_prefill();
  chunk->set_slot(sequence->slot);
  chunk->set_dp_group(sequence->group);
  chunk->set_tokens(tokens);
  sequence->changed_step = step_;
  sequence->computed += tokens;
  group.tokens += tokens;
  group.prefill_left -= tokens;
  if (sequence->computed == sequence->known()) {
    ++sequence->sampled;
    sequence->since = step_;
    making->flight.groups[sequence->group].starts.push_back({sequence->slot, sequence});
    SetCalendar(sequence);
  }
  OfferBlocks(sequence);
}

void Scheduler::ExtendKeys(Sequence* sequence) const {
  const uint32_t size = config_.block_tokens;
  std::vector<PrefixKey>& keys = sequence->keys;
  while (keys.size() < sequence->known() / size) {
    const auto begin = static_cast<uint32_t>(keys.size()) * size;
    const uint32_t prompt =
        sequence->prompt_len > begin ? std::min(size, sequence->prompt_len - begin) : 0;
    keys.push_back(KeyOfBlock(keys.empty() ? PrefixKey() : keys.back(),
                              absl::MakeConstSpan(sequence->tokens).subspan(begin, size), prompt));
  }
}

// Whole blocks of tokens that are known and computed, be it by the step being made, can be shared
// from that step on: a layer writes all rows of a step to the cache before it reads any.
void Scheduler::OfferBlocks(Sequence* sequence) {
  if (!config_.prefix_cache) return;
  const uint32_t whole = std::min(Computed(*sequence), sequence->known()) / config_.block_tokens;
  if (sequence->keyed >= whole) return;
  ExtendKeys(sequence);
  BlockPool& pool = groups_[sequence->group].pool;
  for (; sequence->keyed < whole; ++sequence->keyed) {
    pool.SetKey(sequence->blocks[sequence->keyed], sequence->keys[sequence->keyed]);
  }
}

}  // namespace whalepod
