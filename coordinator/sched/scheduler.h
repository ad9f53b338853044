// Decides what each step runs. Pure: no I/O, no clock, no thread of its own; the engine loop calls
// NextStep and Commit, requests come in by Submit and leave by Cancel or Expire. See
// docs/scheduling.md for the rules and docs/life-of-a-request.md for what a StepPlan means to a
// rank.
//
// One-ahead: step n+1 is made before step n's result is known. What a step computes and how many
// tokens it samples never depends on which tokens were sampled, so the scheduler counts both when
// it makes the step. Only the end of a sequence by a stop token depends on results: its rows in
// steps already made are over-run, and Commit ignores what they sampled.
//
// A sequence that merely goes on costs NextStep nothing: its counts follow from the step in which
// it began to decode, and a calendar says in which step it next needs something.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/sched/block_pool.h"
#include "coordinator/sched/wait_queue.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

struct SchedulerConfig {
  std::vector<uint32_t>
      group_blocks;  // KV blocks of each DP group; its size is the number of groups
  uint32_t block_tokens = 64;
  uint32_t max_num_seqs = 0;                        // slots of a DP group
  uint32_t max_num_batched_tokens = 0;              // tokens of a step in a DP group
  uint32_t max_model_len = 0;                       // tokens of a sequence, prompt and output
  uint32_t max_waiting = 1024;                      // requests queued, running ones not counted
  uint64_t max_waiting_tokens = uint64_t{1} << 40;  // of their prompts
  uint32_t min_chunk = 512;  // prefill chunks but the last are at least this long; tests lower it
  bool prefix_cache = true;
  Duration ageing = std::chrono::seconds(5);  // see WaitQueue
  std::vector<uint32_t> eos_token_ids;
  uint64_t first_step = 1;
};

struct SchedulerRequest {
  std::vector<uint32_t> prompt;
  // What was generated of it before, by an earlier deployment: counts as such in all limits, and
  // what follows is what followed there. Fewer than max_tokens, and none of them its end.
  std::vector<uint32_t> generated;
  v1::SamplingParams sampling;  // seed and max_tokens are set
  std::string tenant;           // whose fair share it takes: the name of an API key
  int32_t priority = 0;         // the lower, the sooner
  TimePoint arrival{};
  // It ends with DEADLINE_EXCEEDED at the first of these that finds it waiting for its first turn,
  // without a token, or at all.
  TimePoint queue_deadline = kNoDeadline;
  TimePoint first_token_deadline = kNoDeadline;
  TimePoint deadline = kNoDeadline;
};

// What Commit and Expire tell about one sequence; events of a sequence come in order.
struct SequenceEvent {
  uint64_t sequence = 0;
  bool has_token = false;
  v1::SampledToken token;
  bool finished = false;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;  // where it finished by its token
  absl::Status error;  // not OK: the sequence finished by it, without a token
};

// What one DP group answered to a step.
struct GroupResult {
  std::vector<v1::SampledToken> tokens;
  // What its ranks hold after the step.
  uint32_t live_sequences = 0;
  uint32_t live_blocks = 0;  // in the tables of all sequences, shared ones once for each
};

struct SchedulerStats {
  uint64_t submitted = 0, finished = 0, cancelled = 0, failed = 0, expired = 0;
  uint64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, overrun_tokens = 0;
  uint64_t preemptions = 0;
  // Comparisons of what a DP group's ranks hold with what they should, and those that failed.
  uint64_t audits = 0, audit_failures = 0;
  // Tokens looked for in the prefix cache, and those found.
  uint64_t prefix_queries = 0, prefix_hits = 0;
  uint64_t waiting_tokens = 0;
  uint32_t waiting = 0, running = 0;
  std::map<int32_t, uint32_t> waiting_by_priority;  // none is 0
  // Of all DP groups. Cached ones have no owner and are there for whoever needs them.
  uint32_t blocks_total = 0, blocks_owned = 0, blocks_cached = 0;
};

class Scheduler {
 public:
  // INVALID_ARGUMENT if the limits allow a prompt that could wait for ever.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(SchedulerConfig config);

  // Queues a request and returns its sequence number, never used again. INVALID_ARGUMENT for one
  // that can never run (both numbers), RESOURCE_EXHAUSTED when the queue is full.
  absl::StatusOr<uint64_t> Submit(SchedulerRequest request);

  // No event of this sequence follows. Its slot and blocks are free once the next step is made.
  // False if there is no such sequence or it has ended.
  bool Cancel(uint64_t sequence);

  // Ends what has missed a deadline, as Cancel does but with an event.
  std::vector<SequenceEvent> Expire(TimePoint now);
  // When Expire has something to do next.
  TimePoint NextDeadline() const;

  // True while something waits, runs, or has yet to be stopped on the ranks.
  bool HasWork() const;

  // Makes the next step (empty if there is nothing to do); its epoch is the caller's to set.
  v1::StepPlan NextStep(TimePoint now);

  // Takes the result of the oldest step not yet committed, of all DP groups. INTERNAL if they are
  // not exactly what the step samples, or the ranks do not hold exactly what they should: they and
  // we disagree, the epoch is over.
  absl::StatusOr<std::vector<SequenceEvent>> Commit(uint64_t step, std::vector<GroupResult> groups);

  // Steps made and not committed.
  size_t InFlight() const { return in_flight_.size(); }
  // Tokens the largest DP group could hold for one sequence.
  int64_t MaxSequenceTokens() const;
  SchedulerStats Stats() const;
  // Recounts everything: every block has exactly its owners, slots and sequences point at each
  // other, no budget is broken. INTERNAL names what is wrong. Takes time in what there is.
  absl::Status Audit() const;

 private:
  enum class State {
    kWaiting,   // in the queue
    kRunning,   // in a slot of its group
    kDraining,  // left its slot, by its end or preempted; results of steps made are still to come
  };
  struct Sequence {
    uint64_t id = 0;
    std::vector<uint32_t> tokens;  // known: the prompt, then what was committed
    uint32_t prompt_len = 0;
    v1::SamplingParams sampling;
    WaitQueue::Tenant* tenant = nullptr;
    QueuePlace place;
    int32_t priority = 0;
    TimePoint queue_deadline, first_token_deadline, deadline;
    TimePoint due = kNoDeadline;  // its entry in deadlines_

    State state = State::kWaiting;
    bool ended = false;      // nothing more goes to the client
    bool admitted = false;   // it has run
    bool preempted = false;  // draining, to wait again after that
    uint32_t group = 0, slot = 0;
    // Tokens that the steps made so far compute and sample; of a decoding sequence as they were
    // after step `since`: each later step adds one to both.
    uint32_t computed = 0, sampled = 0;
    uint64_t since = 0;         // 0: does not decode
    uint64_t due_step = 0;      // its entry in the calendar
    uint64_t changed_step = 0;  // the last that said something of it
    uint32_t results = 0;       // of what was sampled, how many have come back
    uint32_t stops = 0;         // steps that stop it and are not committed
    std::vector<uint32_t> blocks;
    std::vector<PrefixKey> keys;  // of its leading whole blocks
    uint32_t keyed = 0;           // leading blocks that were offered to the prefix cache

    uint32_t known() const { return static_cast<uint32_t>(tokens.size()); }
    uint32_t committed() const { return known() - prompt_len; }
  };
  struct Group {
    Group(uint32_t blocks, uint32_t slots);
    BlockPool pool;
    std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>> free_slots;
    std::map<QueuePlace, Sequence*> running;  // the first in line first
    std::deque<Sequence*> prefilling;         // in order of admission
    uint64_t prefill_left = 0;                // tokens they have yet to compute
    uint32_t decoding = 0;                    // one row each in the step being made
    uint32_t tokens = 0;                      // of the step being made
    uint32_t live_blocks = 0;                 // sum of its sequences' tables
    // As of the step last committed: who samples, by slot.
    std::vector<Sequence*> sampling;
    uint32_t samples = 0;
  };
  struct SlotChange {
    uint32_t slot = 0;
    Sequence* sequence = nullptr;
  };
  // What a step changes in who samples, and what the ranks hold after it.
  struct GroupFlight {
    std::vector<SlotChange> stops, starts;
    uint32_t live_sequences = 0, live_blocks = 0;
  };
  struct Flight {
    uint64_t step = 0;
    std::vector<GroupFlight> groups;
  };
  // The step being made.
  struct Making {
    v1::StepPlan plan;
    Flight flight;
    TimePoint now;
  };
  // Where a waiting sequence could start.
  struct Start {
    Group* group = nullptr;
    std::vector<uint32_t> shared;  // cached blocks that begin it
    uint32_t chunk = 0;            // tokens of its first step
  };

  explicit Scheduler(SchedulerConfig config);

  // next_step.cc and admission.cc
  void StopEnded(Making* making);
  void FollowCalendar(Making* making);
  void GrantNext(Sequence* sequence, Making* making);
  bool MayPreempt(const Sequence& sequence) const;
  Sequence* WorstOf(const Group& group) const;
  void Stop(Sequence* sequence, Making* making);
  void Preempt(Sequence* sequence, Making* making);
  void ContinuePrefills(Group* group, Making* making);
  void AdmitWaiting(Making* making);
  Start FindStart(Sequence* sequence);
  bool CanStart(const Sequence& sequence, Group* group, Start* start) const;
  bool MakeRoom(const Sequence& sequence, Making* making);
  std::vector<Sequence*> VictimsOf(const Sequence& sequence, const Group& group) const;
  void Admit(Sequence* sequence, const Start& start, Making* making);
  void Announce(const Sequence& sequence, Making* making) const;
  bool MayUseCache(const Sequence& sequence) const;
  uint32_t ReserveOf(const Group& group) const;
  void RunChunk(Sequence* sequence, uint32_t tokens, Making* making);
  uint32_t ChunkFor(const Group& group, uint32_t left) const;
  void OfferBlocks(Sequence* sequence);
  void ExtendKeys(Sequence* sequence) const;
  uint32_t Computed(const Sequence& sequence) const;
  void SetCalendar(Sequence* sequence);

  // commit.cc
  absl::Status CommitGroup(uint32_t g, GroupFlight& flight, GroupResult& result,
                           std::vector<SequenceEvent>* events);
  absl::Status CommitToken(Sequence* sequence, v1::SampledToken& token,
                           std::vector<SequenceEvent>* events);
  bool EndsAt(const Sequence& sequence, uint32_t token) const;
  void Settle(Sequence* sequence);

  void Enqueue(Sequence* sequence);
  void Dequeue(Sequence* sequence);
  void End(Sequence* sequence);
  void SetDue(Sequence* sequence);
  uint32_t BlocksFor(uint64_t tokens) const;
  absl::Status CheckRequest(const SchedulerRequest& request) const;
  absl::Status AuditGroup(uint32_t g) const;  // audit.cc

  const SchedulerConfig config_;
  std::vector<Group> groups_;
  std::unordered_map<uint64_t, Sequence> sequences_;
  WaitQueue waiting_;
  uint64_t waiting_tokens_ = 0;
  std::vector<Sequence*> leaving_;  // ended, in a slot
  std::set<std::pair<TimePoint, uint64_t>> deadlines_;
  // What is due in step s is at s modulo the size; nothing is due later than that.
  std::vector<std::vector<uint64_t>> calendar_;
  std::deque<Flight> in_flight_;
  uint64_t next_sequence_ = 1;
  uint64_t step_;  // the last made, or the one being made
  SchedulerStats counters_;
};

}  // namespace whalepod
