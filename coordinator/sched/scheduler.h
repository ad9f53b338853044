// Decides what each step runs. Pure: no I/O, no clock, no thread of its own; the engine loop calls
// NextStep and Commit, requests come in by Submit and leave by Cancel. See
// docs/life-of-a-request.md for what a StepPlan means to a rank.
//
// One-ahead: step n+1 is made before step n's result is known. What a step computes and how many
// tokens it samples never depends on which tokens were sampled, so the scheduler counts both when
// it makes the step. Only the end of a sequence by a stop token depends on results: its rows in
// steps already made are over-run, and Commit ignores what they sampled.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/sched/block_pool.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

struct SchedulerConfig {
  std::vector<uint32_t>
      group_blocks;  // KV blocks of each DP group; its size is the number of groups
  uint32_t block_tokens = 64;
  uint32_t max_num_seqs = 0;            // slots of a DP group
  uint32_t max_num_batched_tokens = 0;  // tokens of a step in a DP group
  uint32_t max_model_len = 0;           // tokens of a sequence, prompt and output
  uint32_t max_waiting = 1024;          // requests queued, running ones not counted
  uint32_t min_chunk = 512;  // prefill chunks but the last are at least this long; tests lower it
  std::vector<uint32_t> eos_token_ids;
  uint64_t first_step = 1;
};

struct SchedulerRequest {
  std::vector<uint32_t> prompt;
  v1::SamplingParams sampling;  // seed and max_tokens are set
};

// What Commit tells about one sequence; events of a sequence come in order.
struct SequenceEvent {
  uint64_t sequence = 0;
  bool has_token = false;
  v1::SampledToken token;
  bool finished = false;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
  absl::Status error;  // not OK: the sequence finished by it
};

struct SchedulerStats {
  uint64_t submitted = 0, finished = 0, cancelled = 0, failed = 0;
  uint64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, overrun_tokens = 0;
  uint32_t waiting = 0, running = 0;
  uint32_t blocks_total = 0, blocks_owned = 0, blocks_promised = 0;
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

  // True while something waits, runs, or has yet to be stopped on the ranks.
  bool HasWork() const;

  // Makes the next step (empty if there is nothing to do); its epoch is the caller's to set.
  v1::StepPlan NextStep();

  // Takes the result of the oldest step not yet committed: the tokens of all DP groups. INTERNAL if
  // they are not exactly those the step samples: the ranks and we disagree, the epoch is over.
  absl::StatusOr<std::vector<SequenceEvent>> Commit(
      uint64_t step, const std::vector<std::vector<v1::SampledToken>>& group_tokens);

  // Steps made and not committed.
  size_t InFlight() const { return in_flight_.size(); }
  // Tokens the largest DP group could hold for one sequence.
  int64_t MaxSequenceTokens() const;
  SchedulerStats Stats() const;
  // Recounts everything: every block has at most one owner, promises add up, slots and sequences
  // point at each other, no budget is broken. INTERNAL names what is wrong.
  absl::Status Audit() const;

 private:
  struct Sequence {
    std::vector<uint32_t> prompt;
    v1::SamplingParams sampling;
    uint32_t prompt_len = 0;
    int group = -1;  // -1: waiting
    uint32_t slot = 0;
    uint32_t computed = 0;   // tokens that the steps made so far compute
    uint32_t sampled = 0;    // tokens that the steps made so far sample
    uint32_t results = 0;    // of those, how many have come back
    uint32_t committed = 0;  // of those, how many went to the client
    bool ended = false;      // nothing more goes to the client
    bool stopped = false;    // has left the ranks
    std::vector<uint32_t> blocks;
    uint32_t promised = 0;
  };
  struct Group {
    explicit Group(uint32_t blocks, uint32_t slots) : pool(blocks), slots(slots, 0) {}
    BlockPool pool;
    std::vector<uint64_t> slots;      // sequence in each slot; 0: free
    std::deque<uint64_t> prefilling;  // in order of admission
    uint32_t running = 0;
    uint32_t tokens = 0;  // of the step being made
  };
  struct Flight {
    uint64_t step = 0;
    std::vector<std::vector<uint64_t>>
        samples;  // per DP group, sequences that sample, in slot order
  };

  explicit Scheduler(SchedulerConfig config);

  void StopEnded(int g, v1::StepPlan* plan);
  void Decode(int g, v1::StepPlan* plan);
  void ContinuePrefills(int g, v1::StepPlan* plan);
  void AdmitWaiting(v1::StepPlan* plan);
  int ChooseGroup(const Sequence& sequence) const;
  uint32_t ChunkFor(const Group& group, const Sequence& sequence) const;
  void RunChunk(Sequence& sequence, uint32_t tokens, v1::StepPlan* plan);
  void Grant(Sequence& sequence, v1::StepPlan* plan);
  void RecordSamples(Flight* flight) const;
  absl::Status CommitToken(uint64_t expected, const v1::SampledToken& token,
                           std::vector<SequenceEvent>* events);
  bool EndsAt(const Sequence& sequence, uint32_t token) const;
  uint32_t BlocksFor(uint64_t tokens) const;
  void EraseIfDone(uint64_t id);

  const SchedulerConfig config_;
  std::vector<Group> groups_;
  std::map<uint64_t, Sequence> sequences_;
  std::deque<uint64_t> waiting_;
  std::deque<Flight> in_flight_;
  uint64_t next_sequence_ = 1;
  uint64_t next_step_ = 1;
  SchedulerStats counters_;
};

}  // namespace whalepod
