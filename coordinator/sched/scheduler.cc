#include "coordinator/sched/scheduler.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "base/units.h"

namespace whalepod {

absl::StatusOr<std::unique_ptr<Scheduler>> Scheduler::Create(SchedulerConfig config) {
  if (config.group_blocks.empty() || config.max_num_seqs == 0 || config.block_tokens == 0 ||
      config.max_model_len == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "scheduler: needs a DP group, slots, block and context sizes; found ",
        config.group_blocks.size(), " groups, max_num_seqs ", config.max_num_seqs,
        ", block_tokens ", config.block_tokens, ", max_model_len ", config.max_model_len));
  }
  config.min_chunk = std::max<uint32_t>(config.min_chunk, 1);
  // All slots but one may decode in every step; what is left must be enough for the other's chunk.
  const uint64_t needed =
      uint64_t{config.max_num_seqs} - 1 + std::min(config.min_chunk, config.max_model_len);
  if (config.max_num_batched_tokens < needed) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_num_batched_tokens is ", config.max_num_batched_tokens,
                     ", must be at least ", needed, ": ", config.max_num_seqs - 1,
                     " decoding sequences (max_num_seqs - 1) beside a prefill chunk of ",
                     std::min(config.min_chunk, config.max_model_len), " tokens"));
  }
  return std::unique_ptr<Scheduler>(new Scheduler(std::move(config)));
}

Scheduler::Scheduler(SchedulerConfig config)
    : config_(std::move(config)), next_step_(config_.first_step) {
  groups_.reserve(config_.group_blocks.size());
  for (const uint32_t blocks : config_.group_blocks) {
    groups_.emplace_back(blocks, config_.max_num_seqs);
  }
}

uint32_t Scheduler::BlocksFor(uint64_t tokens) const {
  return static_cast<uint32_t>((tokens + config_.block_tokens - 1) / config_.block_tokens);
}

int64_t Scheduler::MaxSequenceTokens() const {
  const uint32_t blocks =
      *std::max_element(config_.group_blocks.begin(), config_.group_blocks.end());
  return std::min<int64_t>(config_.max_model_len, int64_t{blocks} * config_.block_tokens);
}

absl::StatusOr<uint64_t> Scheduler::Submit(SchedulerRequest request) {
  const uint64_t prompt_len = request.prompt.size();
  const uint64_t tokens = prompt_len + request.sampling.max_tokens();
  if (prompt_len == 0 || request.sampling.max_tokens() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request needs a prompt and max_tokens; found ", prompt_len, " and ",
                     request.sampling.max_tokens()));
  }
  if (tokens > config_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat(
        "prompt and max_tokens are ", tokens, " tokens (", prompt_len, " + ",
        request.sampling.max_tokens(), "), the context holds ", config_.max_model_len));
  }
  const uint32_t most = *std::max_element(config_.group_blocks.begin(), config_.group_blocks.end());
  if (BlocksFor(tokens) > most) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt and max_tokens are ", tokens, " tokens, ", BlocksFor(tokens),
                     " KV blocks of ", config_.block_tokens, "; there are ", most, " blocks (",
                     uint64_t{most} * config_.block_tokens, " tokens)"));
  }
  if (waiting_.size() >= config_.max_waiting) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting_.size(),
                                                     " requests wait, the limit is ",
                                                     config_.max_waiting));
  }
  const uint64_t id = next_sequence_++;
  Sequence& sequence = sequences_[id];
  sequence.prompt = std::move(request.prompt);
  sequence.sampling = std::move(request.sampling);
  sequence.prompt_len = static_cast<uint32_t>(prompt_len);
  waiting_.push_back(id);
  ++counters_.submitted;
  return id;
}

bool Scheduler::Cancel(uint64_t id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second.ended) return false;
  ++counters_.cancelled;
  it->second.ended = true;
  if (it->second.group < 0) {
    waiting_.erase(std::find(waiting_.begin(), waiting_.end(), id));
    sequences_.erase(it);
  }
  return true;
}

bool Scheduler::HasWork() const {
  if (!waiting_.empty()) return true;
  return std::any_of(groups_.begin(), groups_.end(), [](const Group& g) { return g.running > 0; });
}

v1::StepPlan Scheduler::NextStep() {
  v1::StepPlan plan;
  plan.set_step(next_step_++);
  ++counters_.steps;
  const int groups = static_cast<int>(groups_.size());
  for (int g = 0; g < groups; ++g) {
    groups_[g].tokens = 0;
    StopEnded(g, &plan);
  }
  for (int g = 0; g < groups; ++g) {
    Decode(g, &plan);
    ContinuePrefills(g, &plan);
  }
  AdmitWaiting(&plan);
  for (const Group& group : groups_) plan.add_group_tokens(group.tokens);

  Flight flight;
  flight.step = plan.step();
  RecordSamples(&flight);
  in_flight_.push_back(std::move(flight));
  for (Group& group : groups_) {
    std::erase_if(group.prefilling, [this](uint64_t id) {
      const Sequence& sequence = sequences_.at(id);
      return sequence.computed >= sequence.prompt_len;
    });
  }
  return plan;
}

// Sequences that ended, or whose last token is being sampled by the step before this one, leave;
// their slots and blocks can be used in this very step.
void Scheduler::StopEnded(int g, v1::StepPlan* plan) {
  Group& group = groups_[g];
  for (uint32_t slot = 0; slot < group.slots.size(); ++slot) {
    const uint64_t id = group.slots[slot];
    if (id == 0) continue;
    Sequence& sequence = sequences_.at(id);
    if (!sequence.ended && sequence.sampled < sequence.sampling.max_tokens()) continue;
    v1::StoppedSequence* stopped = plan->add_stopped();
    stopped->set_slot(slot);
    stopped->set_dp_group(g);
    group.pool.Release(sequence.blocks, sequence.promised);
    sequence.blocks.clear();
    sequence.promised = 0;
    sequence.stopped = true;
    group.slots[slot] = 0;
    --group.running;
    std::erase(group.prefilling, id);
    EraseIfDone(id);
  }
}

void Scheduler::Decode(int g, v1::StepPlan* plan) {
  Group& group = groups_[g];
  for (const uint64_t id : group.slots) {
    if (id == 0) continue;
    Sequence& sequence = sequences_.at(id);
    if (sequence.computed < sequence.prompt_len) continue;
    ++sequence.computed;
    ++sequence.sampled;
    ++group.tokens;
    ++counters_.decode_tokens;
    Grant(sequence, plan);
  }
}

void Scheduler::ContinuePrefills(int g, v1::StepPlan* plan) {
  Group& group = groups_[g];
  for (const uint64_t id : group.prefilling) {
    Sequence& sequence = sequences_.at(id);
    // There is at most one: a prompt that is cut takes all that the step has left, so no other
    // starts beside it. The limits that Create asks for leave it a chunk beside any decodes.
    const uint32_t chunk = ChunkFor(group, sequence);
    CHECK_GT(chunk, 0u);
    RunChunk(sequence, chunk, plan);
  }
}

uint32_t Scheduler::ChunkFor(const Group& group, const Sequence& sequence) const {
  const uint32_t left = sequence.prompt_len - sequence.computed;
  const uint32_t budget = config_.max_num_batched_tokens - group.tokens;
  const uint32_t chunk = std::min(left, budget);
  return chunk == left || chunk >= config_.min_chunk ? chunk : 0;
}

void Scheduler::RunChunk(Sequence& sequence, uint32_t tokens, v1::StepPlan* plan) {
  v1::PrefillChunk* chunk = plan->add_prefill();
  chunk->set_slot(sequence.slot);
  chunk->set_dp_group(sequence.group);
  chunk->set_tokens(tokens);
  sequence.computed += tokens;
  if (sequence.computed == sequence.prompt_len) ++sequence.sampled;
  groups_[sequence.group].tokens += tokens;
  counters_.prefill_tokens += tokens;
  Grant(sequence, plan);
}

void Scheduler::Grant(Sequence& sequence, v1::StepPlan* plan) {
  const uint32_t needed = BlocksFor(sequence.computed);
  if (needed <= sequence.blocks.size()) return;
  v1::GrantedBlocks* granted = plan->add_granted();
  granted->set_slot(sequence.slot);
  granted->set_dp_group(sequence.group);
  while (sequence.blocks.size() < needed) {
    CHECK_GT(sequence.promised, 0u);
    const uint32_t block = groups_[sequence.group].pool.Take();
    --sequence.promised;
    sequence.blocks.push_back(block);
    granted->add_blocks(block);
  }
}

// The group with the fewest running sequences, then the fewest blocks spoken for, among those that
// can start the sequence in this step; -1 if there is none.
int Scheduler::ChooseGroup(const Sequence& sequence) const {
  const uint32_t blocks = BlocksFor(sequence.prompt_len + sequence.sampling.max_tokens());
  int best = -1;
  std::tuple<uint32_t, uint32_t> best_load;
  for (int g = 0; g < static_cast<int>(groups_.size()); ++g) {
    const Group& group = groups_[g];
    if (group.running == config_.max_num_seqs || group.pool.available() < blocks ||
        ChunkFor(group, sequence) == 0) {
      continue;
    }
    const std::tuple<uint32_t, uint32_t> load(group.running,
                                              group.pool.owned() + group.pool.promised());
    if (best < 0 || load < best_load) {
      best = g;
      best_load = load;
    }
  }
  return best;
}

void Scheduler::AdmitWaiting(v1::StepPlan* plan) {
  while (!waiting_.empty()) {
    const uint64_t id = waiting_.front();
    Sequence& sequence = sequences_.at(id);
    const int g = ChooseGroup(sequence);
    if (g < 0) return;
    waiting_.pop_front();
    Group& group = groups_[g];
    const auto free = std::find(group.slots.begin(), group.slots.end(), 0);
    CHECK(free != group.slots.end());
    *free = id;
    ++group.running;
    group.prefilling.push_back(id);
    sequence.group = g;
    sequence.slot = static_cast<uint32_t>(free - group.slots.begin());
    sequence.promised = BlocksFor(sequence.prompt_len + sequence.sampling.max_tokens());
    CHECK(group.pool.Promise(sequence.promised));

    v1::NewSequence* added = plan->add_new_sequences();
    added->set_sequence(id);
    added->set_slot(sequence.slot);
    added->set_dp_group(g);
    added->mutable_tokens()->Add(sequence.prompt.begin(), sequence.prompt.end());
    added->set_prompt_len(sequence.prompt_len);
    *added->mutable_sampling() = sequence.sampling;
    std::vector<uint32_t>().swap(sequence.prompt);  // the ranks have it now
    RunChunk(sequence, ChunkFor(group, sequence), plan);
  }
}

// Called when all rows of the step are known: a sequence samples in it if its prompt's end is in
// this step or was before it. Sequences still within their prompt have sampled nothing.
void Scheduler::RecordSamples(Flight* flight) const {
  for (const Group& group : groups_) {
    std::vector<uint64_t>& samples = flight->samples.emplace_back();
    for (const uint64_t id : group.slots) {
      if (id != 0 && sequences_.at(id).sampled > 0) samples.push_back(id);
    }
  }
}

absl::StatusOr<std::vector<SequenceEvent>> Scheduler::Commit(
    uint64_t step, const std::vector<std::vector<v1::SampledToken>>& group_tokens) {
  if (in_flight_.empty() || in_flight_.front().step != step) {
    return absl::InternalError(absl::StrCat(
        "result of step ", step, " came, expected that of step ",
        in_flight_.empty() ? std::string("none") : absl::StrCat(in_flight_.front().step)));
  }
  const Flight flight = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (group_tokens.size() != flight.samples.size()) {
    return absl::InternalError(absl::StrCat("step ", step, ": results of ", group_tokens.size(),
                                            " DP groups, expected ", flight.samples.size()));
  }
  std::vector<SequenceEvent> events;
  for (size_t g = 0; g < group_tokens.size(); ++g) {
    const std::vector<uint64_t>& expected = flight.samples[g];
    if (group_tokens[g].size() != expected.size()) {
      return absl::InternalError(absl::StrCat("step ", step, ", DP group ", g, ": ",
                                              group_tokens[g].size(), " sampled tokens, expected ",
                                              expected.size()));
    }
    std::vector<const v1::SampledToken*> tokens;
    for (const v1::SampledToken& token : group_tokens[g]) tokens.push_back(&token);
    std::sort(tokens.begin(), tokens.end(),
              [](const auto* a, const auto* b) { return a->slot() < b->slot(); });
    for (size_t i = 0; i < expected.size(); ++i) {
      RETURN_IF_ERROR(Annotate(CommitToken(expected[i], *tokens[i], &events),
                               absl::StrCat("step ", step, ", DP group ", g)));
    }
  }
  return events;
}

absl::Status Scheduler::CommitToken(uint64_t expected, const v1::SampledToken& token,
                                    std::vector<SequenceEvent>* events) {
  const auto it = sequences_.find(expected);
  CHECK(it != sequences_.end());  // kept until its last result is here
  Sequence& sequence = it->second;
  if (token.sequence() != expected || token.slot() != sequence.slot ||
      token.index() != sequence.results) {
    return absl::InternalError(absl::StrCat("sampled token of sequence ", token.sequence(),
                                            " slot ", token.slot(), " index ", token.index(),
                                            ", expected sequence ", expected, " slot ",
                                            sequence.slot, " index ", sequence.results));
  }
  ++sequence.results;
  if (sequence.ended) {
    ++counters_.overrun_tokens;
    EraseIfDone(expected);
    return absl::OkStatus();
  }
  SequenceEvent event;
  event.sequence = expected;
  if (!token.error().empty()) {
    event.error = absl::DataLossError(
        absl::StrCat("generated token ", token.index(), " could not be sampled: ", token.error()));
    event.finished = true;
    ++counters_.failed;
  } else {
    event.has_token = true;
    event.token = token;
    ++sequence.committed;
    if (EndsAt(sequence, token.token_id())) {
      event.finished = true;
      event.reason = v1::FINISH_REASON_STOP;
    } else if (sequence.committed == sequence.sampling.max_tokens()) {
      event.finished = true;
      event.reason = v1::FINISH_REASON_LENGTH;
    }
    if (event.finished) ++counters_.finished;
  }
  sequence.ended = event.finished;
  events->push_back(std::move(event));
  EraseIfDone(expected);
  return absl::OkStatus();
}

bool Scheduler::EndsAt(const Sequence& sequence, uint32_t token) const {
  const auto& stops = sequence.sampling.stop_token_ids();
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return true;
  if (sequence.sampling.ignore_eos()) return false;
  const std::vector<uint32_t>& eos = config_.eos_token_ids;
  return std::find(eos.begin(), eos.end(), token) != eos.end();
}

void Scheduler::EraseIfDone(uint64_t id) {
  const auto it = sequences_.find(id);
  if (it->second.stopped && it->second.results == it->second.sampled) sequences_.erase(it);
}

SchedulerStats Scheduler::Stats() const {
  SchedulerStats stats = counters_;
  stats.waiting = static_cast<uint32_t>(waiting_.size());
  for (const Group& group : groups_) {
    stats.running += group.running;
    stats.blocks_total += group.pool.total();
    stats.blocks_owned += group.pool.owned();
    stats.blocks_promised += group.pool.promised();
  }
  return stats;
}

absl::Status Scheduler::Audit() const {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    std::vector<bool> seen(group.pool.total(), false);
    uint32_t running = 0, owned = 0, promised = 0;
    for (uint32_t slot = 0; slot < group.slots.size(); ++slot) {
      const uint64_t id = group.slots[slot];
      if (id == 0) continue;
      ++running;
      const auto it = sequences_.find(id);
      if (it == sequences_.end() || it->second.group != static_cast<int>(g) ||
          it->second.slot != slot || it->second.stopped) {
        return absl::InternalError(absl::StrCat("DP group ", g, " slot ", slot, " holds sequence ",
                                                id, ", which is not there"));
      }
      promised += it->second.promised;
      for (const uint32_t block : it->second.blocks) {
        if (!group.pool.IsOwned(block) || seen[block]) {
          return absl::InternalError(absl::StrCat("DP group ", g, " block ", block, " of sequence ",
                                                  id,
                                                  seen[block] ? " has two owners" : " is free"));
        }
        seen[block] = true;
        ++owned;
      }
    }
    if (running != group.running || owned != group.pool.owned() ||
        promised != group.pool.promised() || group.tokens > config_.max_num_batched_tokens) {
      return absl::InternalError(
          absl::StrCat("DP group ", g, ": counted ", running, " running, ", owned,
                       " blocks owned, ", promised, " promised; kept ", group.running, ", ",
                       group.pool.owned(), ", ", group.pool.promised(), "; ", group.tokens,
                       " tokens in the last step of at most ", config_.max_num_batched_tokens));
    }
  }
  const uint64_t live = waiting_.size() + Stats().running;
  const uint64_t draining = std::count_if(sequences_.begin(), sequences_.end(),
                                          [](const auto& entry) { return entry.second.stopped; });
  if (sequences_.size() != live + draining) {
    return absl::InternalError(absl::StrCat(sequences_.size(), " sequences kept, ", live,
                                            " waiting or running and ", draining,
                                            " on their way out"));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
