// A model of what ranks do with steps, for tests: it implements the step semantics of
// docs/life-of-a-request.md for every DP group, refuses what a real executor refuses, and samples
// tokens that depend on the prompt, the seed and the token's index alone.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/sched/scheduler.h"
#include "whalepod/v1/step.pb.h"

namespace whalepod {

class ModelWorker {
 public:
  struct Config {
    std::vector<uint32_t> group_blocks;
    uint32_t block_tokens = 64;
    uint32_t max_num_seqs = 0;
    uint32_t max_num_batched_tokens = 0;
    uint32_t vocab_size = 1000;
    uint64_t first_step = 1;
  };
  // Ranks that have what the scheduler counts on.
  static Config ConfigFor(const SchedulerConfig& scheduler);
  explicit ModelWorker(Config config) : config_(std::move(config)), next_step_(config_.first_step) {
    groups_.resize(config_.group_blocks.size());
    for (const uint32_t blocks : config_.group_blocks) {
      kv_.emplace_back(uint64_t{blocks} * config_.block_tokens, 0);
    }
  }

  // Logprobs of prompts' tokens, minus their positions, that the steps since the last call
  // computed.
  std::vector<v1::PromptLogprob> TakePrompt() { return std::exchange(prompt_, {}); }

  // What each DP group answers, tokens in slot order; FAILED_PRECONDITION for a step that
  // contradicts the state, or that has a sequence read from a block what was not written there for
  // a sequence that begins alike.
  absl::StatusOr<std::vector<GroupResult>> Run(const v1::StepPlan& plan);

  // FNV-1a-64 over the live slots of a DP group.
  uint64_t Digest(uint32_t group) const;

  // The token that a sequence of this prompt and seed samples at `index`. A choice counts as a seed
  // that is higher by as many.
  static uint32_t TokenAt(const std::vector<uint32_t>& prompt, uint64_t seed, uint32_t index,
                          uint32_t vocab_size);

  // Makes the sampling of this prompt's token `index` fail with an error (NaN logits). From any
  // thread.
  void FailToken(std::vector<uint32_t> prompt, uint32_t index) {
    std::lock_guard lock(failing_mu_);
    failing_[std::move(prompt)] = index;
  }

  uint32_t live() const;
  uint64_t rows() const { return rows_; }

 private:
  struct Live {
    uint64_t sequence = 0;
    std::vector<uint32_t> tokens;  // known
    uint32_t prompt_len = 0;
    uint32_t computed = 0;
    bool decoding = false;
    std::vector<uint32_t> blocks;
    v1::SamplingParams sampling;
    std::vector<uint64_t> prefixes;  // of each known token: a hash of all up to it, and their roles
    std::vector<uint32_t> prompt() const { return {tokens.begin(), tokens.begin() + prompt_len}; }
    void Know(uint32_t token);
  };
  using Group = std::map<uint32_t, Live>;  // by slot

  absl::Status Apply(const v1::StepPlan& plan);
  absl::Status Add(const v1::NewSequence& added);
  absl::Status Compute(uint32_t g, uint32_t slot, uint32_t tokens);
  using Chunks = std::map<std::pair<uint32_t, uint32_t>, uint32_t>;  // (DP group, slot): tokens
  absl::Status RunGroup(uint32_t g, const Chunks& chunks, uint32_t expected_rows,
                        GroupResult* result);
  void Sample(uint32_t slot, Live& live, GroupResult* result);
  // What a DP group's block holds at the place of a token.
  uint64_t& At(uint32_t g, const Live& live, uint32_t position);

  Config config_;
  std::vector<Group> groups_;
  std::vector<std::vector<uint64_t>> kv_;  // by DP group: the prefixes of what was written
  std::mutex failing_mu_;
  std::map<std::vector<uint32_t>, uint32_t> failing_;
  uint64_t next_step_;
  uint64_t rows_ = 0;
  std::vector<v1::PromptLogprob> prompt_;
};

}  // namespace whalepod
