#include "coordinator/sched/scheduler.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

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

Scheduler::Group::Group(uint32_t blocks, uint32_t slots) : pool(blocks), sampling(slots, nullptr) {
  for (uint32_t slot = 0; slot < slots; ++slot) free_slots.push(slot);
}

Scheduler::Scheduler(SchedulerConfig config)
    : config_(std::move(config)),
      waiting_(config_.ageing),
      // A sequence needs its next block after at most a block's tokens.
      calendar_(config_.block_tokens + 2),
      step_(config_.first_step - 1) {
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

absl::Status Scheduler::CheckRequest(const SchedulerRequest& request) const {
  const uint64_t prompt_len = request.prompt.size();
  const uint64_t tokens = prompt_len + request.sampling.max_tokens();
  if (prompt_len == 0 || request.sampling.max_tokens() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request needs a prompt and max_tokens; found ", prompt_len, " and ",
                     request.sampling.max_tokens()));
  }
  if (request.generated.size() >= request.sampling.max_tokens()) {
    return absl::InvalidArgumentError(
        absl::StrCat(request.generated.size(), " tokens are generated, of at most ",
                     request.sampling.max_tokens(), ": nothing is left to be generated"));
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
  // One that is alone may be longer than the limit.
  const uint64_t known = prompt_len + request.generated.size();
  if (!waiting_.empty() && waiting_tokens_ + known > config_.max_waiting_tokens) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the queue is full: ", waiting_tokens_, " tokens wait, ", known,
                     " more would pass the limit of ", config_.max_waiting_tokens));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Scheduler::Submit(SchedulerRequest request) {
  if (absl::Status status = CheckRequest(request); !status.ok()) return status;
  const uint64_t id = next_sequence_++;
  Sequence& sequence = sequences_[id];
  sequence.id = id;
  sequence.prompt_len = static_cast<uint32_t>(request.prompt.size());
  sequence.tokens = std::move(request.prompt);
  // As if it had been preempted.
  sequence.tokens.insert(sequence.tokens.end(), request.generated.begin(), request.generated.end());
  sequence.sampled = sequence.results = static_cast<uint32_t>(request.generated.size());
  sequence.sampling = std::move(request.sampling);
  sequence.tenant = waiting_.Enter(request.tenant);
  sequence.priority = request.priority;
  sequence.place = waiting_.PlaceOf(id, request.priority, request.arrival);
  sequence.queue_deadline = request.queue_deadline;
  sequence.first_token_deadline = request.first_token_deadline;
  sequence.deadline = request.deadline;
  Enqueue(&sequence);
  SetDue(&sequence);
  ++counters_.submitted;
  return id;
}

void Scheduler::Enqueue(Sequence* sequence) {
  sequence->state = State::kWaiting;
  waiting_.Push(sequence->tenant, sequence->place, sequence->priority);
  waiting_tokens_ += sequence->known();
}

void Scheduler::Dequeue(Sequence* sequence) {
  waiting_.Remove(sequence->tenant, sequence->place, sequence->priority);
  waiting_tokens_ -= sequence->known();
}

void Scheduler::SetDue(Sequence* sequence) {
  TimePoint due = kNoDeadline;
  if (!sequence->ended) {
    due = sequence->deadline;
    if (sequence->committed() == 0) due = std::min(due, sequence->first_token_deadline);
    if (!sequence->admitted) due = std::min(due, sequence->queue_deadline);
  }
  if (due == sequence->due) return;
  if (sequence->due != kNoDeadline) deadlines_.erase({sequence->due, sequence->id});
  if (due != kNoDeadline) deadlines_.emplace(due, sequence->id);
  sequence->due = due;
}

// Nothing more goes to the client. Settle must follow.
void Scheduler::End(Sequence* sequence) {
  sequence->ended = true;
  SetDue(sequence);
  WaitQueue::Leave(sequence->tenant);
  switch (sequence->state) {
    case State::kWaiting:
      Dequeue(sequence);
      sequence->state = State::kDraining;
      break;
    case State::kRunning:
      leaving_.push_back(sequence);
      break;
    case State::kDraining:
      sequence->preempted = false;
      break;
  }
}

// A sequence that has left its slot waits again or is forgotten, once all that steps already made
// say of it has come back. It may be gone after this.
void Scheduler::Settle(Sequence* sequence) {
  if (sequence->state != State::kDraining || sequence->results < sequence->sampled) return;
  if (sequence->preempted) {
    sequence->preempted = false;
    Enqueue(sequence);
  } else if (sequence->ended && sequence->stops == 0) {
    sequences_.erase(sequence->id);
  }
}

bool Scheduler::Cancel(uint64_t id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second.ended) return false;
  ++counters_.cancelled;
  End(&it->second);
  Settle(&it->second);
  return true;
}

TimePoint Scheduler::NextDeadline() const {
  return deadlines_.empty() ? kNoDeadline : deadlines_.begin()->first;
}

std::vector<SequenceEvent> Scheduler::Expire(TimePoint now) {
  std::vector<SequenceEvent> events;
  while (NextDeadline() <= now) {
    Sequence& sequence = sequences_.at(deadlines_.begin()->second);
    const char* missed = "its end";
    if (!sequence.admitted && sequence.queue_deadline <= now) {
      missed = "its first turn";
    } else if (sequence.committed() == 0 && sequence.first_token_deadline <= now) {
      missed = "its first token";
    }
    SequenceEvent& event = events.emplace_back();
    event.sequence = sequence.id;
    event.finished = true;
    event.error = absl::DeadlineExceededError(
        absl::StrCat("the time for ", missed, " has passed, with ", sequence.committed(), " of ",
                     sequence.sampling.max_tokens(), " tokens"));
    ++counters_.expired;
    End(&sequence);
    Settle(&sequence);
  }
  return events;
}

bool Scheduler::HasWork() const {
  return !waiting_.empty() || std::any_of(groups_.begin(), groups_.end(),
                                          [](const Group& g) { return !g.running.empty(); });
}

SchedulerStats Scheduler::Stats() const {
  SchedulerStats stats = counters_;
  stats.waiting = static_cast<uint32_t>(waiting_.size());
  stats.waiting_tokens = waiting_tokens_;
  stats.waiting_by_priority = waiting_.by_priority();
  for (const Group& group : groups_) {
    stats.running += static_cast<uint32_t>(group.running.size());
    stats.blocks_total += group.pool.total();
    stats.blocks_owned += group.pool.owned();
    stats.blocks_cached += group.pool.cached();
  }
  return stats;
}

}  // namespace whalepod
