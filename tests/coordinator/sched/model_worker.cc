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

uint32_t ModelWorker::TokenAt(const std::vector<uint32_t>& prompt, uint64_t seed, uint32_t index,
                              uint32_t vocab_size) {
  uint64_t hash = seed;
  for (const uint32_t token : prompt) hash = Mix(hash, token);
  return static_cast<uint32_t>(Mix(hash, index) % vocab_size);
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
    if (groups_[added.dp_group()].count(added.slot())) {
      return Wrong(absl::StrCat("new sequence in used slot ", added.slot()));
    }
    if (!seen_.insert(added.sequence()).second) return Wrong("sequence number used again");
    if (added.tokens().empty() || added.prompt_len() == 0) return Wrong("empty prompt");
    Live& live = groups_[added.dp_group()][added.slot()];
    live.sequence = added.sequence();
    live.prompt.assign(added.tokens().begin(), added.tokens().end());
    live.sampling = added.sampling();
  }
  for (const v1::GrantedBlocks& granted : plan.granted()) {
    if (!in_range(granted.dp_group(), granted.slot())) return Wrong("grant out of range");
    Group& group = groups_[granted.dp_group()];
    const auto it = group.find(granted.slot());
    if (it == group.end()) return Wrong("blocks granted to an empty slot");
    for (const uint32_t block : granted.blocks()) {
      if (block >= config_.group_blocks[granted.dp_group()]) return Wrong("block out of range");
      for (const auto& [slot, live] : group) {
        if (std::count(live.blocks.begin(), live.blocks.end(), block)) {
          return Wrong(absl::StrCat("block ", block, " already belongs to slot ", slot));
        }
      }
      it->second.blocks.push_back(block);
    }
  }
  return absl::OkStatus();
}

absl::Status ModelWorker::Compute(uint32_t g, uint32_t slot, uint32_t tokens) {
  Live& live = groups_[g].at(slot);
  const uint32_t known = static_cast<uint32_t>(live.prompt.size() + live.sampled.size());
  if (tokens == 0 || live.computed + tokens > known) {
    return Wrong(absl::StrCat("slot ", slot, ": ", tokens, " tokens asked, ", known - live.computed,
                              " known and not computed"));
  }
  for (uint32_t at = live.computed + 1; live.sampling.has_prompt_logprobs() &&
                                        at <= live.computed + tokens && at < live.prompt.size();
       ++at) {
    v1::PromptLogprob& score = prompt_.emplace_back();
    score.set_sequence(live.sequence);
    score.set_position(at);
    score.set_token_id(live.prompt[at]);
    score.set_logprob(-static_cast<float>(at));
  }
  live.computed += tokens;
  if (uint64_t{live.computed} > uint64_t{live.blocks.size()} * config_.block_tokens) {
    return Wrong(absl::StrCat("slot ", slot, ": ", live.computed, " tokens in ", live.blocks.size(),
                              " blocks"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<v1::SampledToken>>> ModelWorker::Run(
    const v1::StepPlan& plan) {
  if (plan.step() != next_step_) {
    return Wrong(absl::StrCat("step ", plan.step(), ", expected ", next_step_));
  }
  ++next_step_;
  RETURN_IF_ERROR(Apply(plan));
  if (plan.group_tokens_size() != static_cast<int>(groups_.size())) return Wrong("group_tokens");

  std::map<std::pair<uint32_t, uint32_t>, uint32_t> chunks;
  for (const v1::PrefillChunk& chunk : plan.prefill()) {
    if (chunk.dp_group() >= groups_.size() || !groups_[chunk.dp_group()].count(chunk.slot())) {
      return Wrong("prefill of an empty slot");
    }
    if (!chunks.emplace(std::pair(chunk.dp_group(), chunk.slot()), chunk.tokens()).second) {
      return Wrong("two chunks for one slot");
    }
  }
  std::vector<std::vector<v1::SampledToken>> sampled(groups_.size());
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    uint32_t rows = 0;
    for (auto& [slot, live] : groups_[g]) {
      const auto chunk = chunks.find({g, slot});
      uint32_t tokens = 0;
      if (chunk != chunks.end()) {
        tokens = chunk->second;
      } else if (!live.sampled.empty()) {
        tokens = 1;
      } else {
        continue;
      }
      RETURN_IF_ERROR(Compute(g, slot, tokens));
      rows += tokens;
      if (live.computed < live.prompt.size() + live.sampled.size()) continue;
      const uint32_t index = static_cast<uint32_t>(live.sampled.size());
      if (index >= live.sampling.max_tokens()) return Wrong("sampled past max_tokens");
      v1::SampledToken& token = sampled[g].emplace_back();
      token.set_slot(slot);
      token.set_sequence(live.sequence);
      token.set_index(index);
      token.set_token_id(TokenAt(live.prompt, live.sampling.seed() + live.sampling.choice(), index,
                                 config_.vocab_size));
      std::lock_guard lock(failing_mu_);
      const auto failing = failing_.find(live.prompt);
      if (failing != failing_.end() && failing->second == index) token.set_error("logits are NaN");
      live.sampled.push_back(token.token_id());
    }
    if (rows != plan.group_tokens(g)) {
      return Wrong(absl::StrCat("DP group ", g, ": counted ", rows, " rows, the step says ",
                                plan.group_tokens(g)));
    }
    if (rows > config_.max_num_batched_tokens) return Wrong("more rows than a step may have");
    rows_ += rows;
  }
  return sampled;
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
    add(live.sampled.empty() ? live.prompt.back() : live.sampled.back(), 4);
  }
  return hash;
}

uint32_t ModelWorker::live() const {
  uint32_t live = 0;
  for (const Group& group : groups_) live += static_cast<uint32_t>(group.size());
  return live;
}

}  // namespace whalepod
