#include "tests/coordinator/sched/model_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {
namespace {

absl::Status Wrong(const std::string& what) { return absl::FailedPreconditionError(what); }

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15 + (hash << 6) + (hash >> 2);
  hash *= 0xff51afd7ed558ccd;
  return hash ^ (hash >> 33);
}

}  // namespace

ModelWorker::Config ModelWorker::ConfigFor(const SchedulerConfig& scheduler) {
  Config config;
  config.group_blocks = scheduler.group_blocks;
  config.block_tokens = scheduler.block_tokens;
  config.max_num_seqs = scheduler.max_num_seqs;
  config.max_num_batched_tokens = scheduler.max_num_batched_tokens;
  config.first_step = scheduler.first_step;
  return config;
}

uint32_t ModelWorker::TokenAt(const std::vector<uint32_t>& prompt, uint64_t seed, uint32_t index,
                              uint32_t vocab_size) {
  uint64_t hash = seed;
  for (const uint32_t token : prompt) hash = Mix(hash, token);
  return static_cast<uint32_t>(Mix(hash, index) % vocab_size);
}

void ModelWorker::Live::Know(uint32_t token) {
  const bool generated = tokens.size() >= prompt_len;
  prefixes.push_back(Mix(Mix(prefixes.empty() ? 1 : prefixes.back(), token), generated ? 2 : 1));
  tokens.push_back(token);
}

absl::Status ModelWorker::Add(const v1::NewSequence& added) {
  if (groups_[added.dp_group()].count(added.slot())) {
    return Wrong(absl::StrCat("new sequence in used slot ", added.slot()));
  }
  for (const Group& group : groups_) {
    for (const auto& [slot, live] : group) {
      if (live.sequence == added.sequence()) return Wrong("a sequence in two slots");
    }
  }
  const auto known = static_cast<uint32_t>(added.tokens_size());
  if (added.prompt_len() == 0 || added.prompt_len() > known || added.computed() >= known) {
    return Wrong(absl::StrCat("new sequence of ", known, " tokens, prompt ", added.prompt_len(),
                              ", computed ", added.computed()));
  }
  Live& live = groups_[added.dp_group()][added.slot()];
  live.sequence = added.sequence();
  live.prompt_len = added.prompt_len();
  live.computed = added.computed();
  live.sampling = added.sampling();
  for (const uint32_t token : added.tokens()) live.Know(token);
  return absl::OkStatus();
}

absl::Status ModelWorker::Apply(const v1::StepPlan& plan) {
  const auto in_range = [&](uint32_t group, uint32_t slot) {
    return group < groups_.size() && slot < config_.max_num_seqs;
  };
  for (const v1::StoppedSequence& stop : plan.stopped()) {
    if (!in_range(stop.dp_group(), stop.slot()) ||
        groups_[stop.dp_group()].erase(stop.slot()) == 0) {
      return Wrong(absl::StrCat("stop of empty slot ", stop.slot()));
    }
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    if (!in_range(added.dp_group(), added.slot())) return Wrong("new sequence out of range");
    RETURN_IF_ERROR(Add(added));
  }
  for (const v1::GrantedBlocks& granted : plan.granted()) {
    if (!in_range(granted.dp_group(), granted.slot())) return Wrong("grant out of range");
    Group& group = groups_[granted.dp_group()];
    const auto it = group.find(granted.slot());
    if (it == group.end()) return Wrong("blocks granted to an empty slot");
    for (const uint32_t block : granted.blocks()) {
      if (block >= config_.group_blocks[granted.dp_group()]) return Wrong("block out of range");
      it->second.blocks.push_back(block);
    }
  }
  return absl::OkStatus();
}

uint64_t& ModelWorker::At(uint32_t g, const Live& live, uint32_t position) {
  const uint32_t size = config_.block_tokens;
  return kv_[g][uint64_t{live.blocks[position / size]} * size + position % size];
}

absl::Status ModelWorker::Compute(uint32_t g, uint32_t slot, uint32_t tokens) {
  Live& live = groups_[g].at(slot);
  const auto known = static_cast<uint32_t>(live.tokens.size());
  if (tokens == 0 || live.computed + tokens > known) {
    return Wrong(absl::StrCat("slot ", slot, ": ", tokens, " tokens asked, ", known - live.computed,
                              " known and not computed"));
  }
  const uint32_t end = live.computed + tokens;
  if (uint64_t{end} > uint64_t{live.blocks.size()} * config_.block_tokens) {
    return Wrong(
        absl::StrCat("slot ", slot, ": ", end, " tokens in ", live.blocks.size(), " blocks"));
  }
  for (uint32_t at = live.computed + 1;
       live.sampling.has_prompt_logprobs() && at <= end && at < live.prompt_len; ++at) {
    v1::PromptLogprob& score = prompt_.emplace_back();
    score.set_sequence(live.sequence);
    score.set_position(at);
    score.set_token_id(live.tokens[at]);
    score.set_logprob(-static_cast<float>(at));
  }
  for (; live.computed < end; ++live.computed) {
    At(g, live, live.computed) = live.prefixes[live.computed];
  }
  return absl::OkStatus();
}

void ModelWorker::Sample(uint32_t slot, Live& live, GroupResult* result) {
  const auto index = static_cast<uint32_t>(live.tokens.size()) - live.prompt_len;
  v1::SampledToken& token = result->tokens.emplace_back();
  token.set_slot(slot);
  token.set_sequence(live.sequence);
  token.set_index(index);
  const std::vector<uint32_t> prompt = live.prompt();
  token.set_token_id(
      TokenAt(prompt, live.sampling.seed() + live.sampling.choice(), index, config_.vocab_size));
  std::lock_guard lock(failing_mu_);
  const auto failing = failing_.find(prompt);
  if (failing != failing_.end() && failing->second == index) token.set_error("logits are NaN");
  live.Know(token.token_id());
  live.decoding = true;
}

absl::StatusOr<std::vector<GroupResult>> ModelWorker::Run(const v1::StepPlan& plan) {
  if (plan.step() != next_step_) {
    return Wrong(absl::StrCat("step ", plan.step(), ", expected ", next_step_));
  }
  ++next_step_;
  RETURN_IF_ERROR(Apply(plan));
  if (plan.group_tokens_size() != static_cast<int>(groups_.size())) return Wrong("group_tokens");

  Chunks chunks;
  for (const v1::PrefillChunk& chunk : plan.prefill()) {
    if (chunk.dp_group() >= groups_.size() || !groups_[chunk.dp_group()].count(chunk.slot())) {
      return Wrong("prefill of an empty slot");
    }
    if (!chunks.emplace(std::pair(chunk.dp_group(), chunk.slot()), chunk.tokens()).second) {
      return Wrong("two chunks for one slot");
    }
  }
  std::vector<GroupResult> results(groups_.size());
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    RETURN_IF_ERROR(RunGroup(g, chunks, plan.group_tokens(g), &results[g]));
  }
  return results;
}

absl::Status ModelWorker::RunGroup(uint32_t g, const Chunks& chunks, uint32_t expected_rows,
                                   GroupResult* result) {
  uint32_t rows = 0;
  std::vector<uint32_t> sampling;
  for (auto& [slot, live] : groups_[g]) {
    const auto chunk = chunks.find({g, slot});
    if (chunk == chunks.end() && !live.decoding) continue;
    const uint32_t tokens = chunk != chunks.end() ? chunk->second : 1;
    RETURN_IF_ERROR(Compute(g, slot, tokens));
    rows += tokens;
    if (live.computed == live.tokens.size()) sampling.push_back(slot);
  }
  // All is written before anything is read, as in a layer.
  for (const auto& [slot, live] : groups_[g]) {
    for (uint32_t at = 0; at < live.computed; ++at) {
      if (At(g, live, at) == live.prefixes[at]) continue;
      return Wrong(absl::StrCat("slot ", slot, " finds other tokens than its own at ", at));
    }
  }
  for (const uint32_t slot : sampling) {
    Live& live = groups_[g].at(slot);
    if (live.tokens.size() - live.prompt_len >= live.sampling.max_tokens()) {
      return Wrong("sampled past max_tokens");
    }
    Sample(slot, live, result);
  }
  result->live_sequences = static_cast<uint32_t>(groups_[g].size());
  for (const auto& [slot, live] : groups_[g]) {
    result->live_blocks += static_cast<uint32_t>(live.blocks.size());
  }
  if (rows != expected_rows) {
    return Wrong(
        absl::StrCat("DP group ", g, ": counted ", rows, " rows, the step says ", expected_rows));
  }
  if (rows > config_.max_num_batched_tokens) return Wrong("more rows than a step may have");
  rows_ += rows;
  return absl::OkStatus();
}

uint64_t ModelWorker::Digest(uint32_t group) const {
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) {
      hash ^= (value >> (8 * i)) & 0xff;
      hash *= 0x100000001b3;
    }
  };
  for (const auto& [slot, live] : groups_[group]) {
    add(slot, 4);
    add(live.sequence, 8);
    add(live.computed, 4);
    add(live.blocks.size(), 4);
    add(live.tokens.back(), 4);
  }
  return hash;
}

uint32_t ModelWorker::live() const {
  uint32_t live = 0;
  for (const Group& group : groups_) live += static_cast<uint32_t>(group.size());
  return live;
}

}  // namespace whalepod
