#include "tests/bench/step_model.h"

#include "base/check.h"

namespace whalepod {

std::vector<GroupResult> StepModel::Run(const v1::StepPlan& plan) {
  for (const v1::StoppedSequence& stop : plan.stopped()) {
    Group& group = groups_[stop.dp_group()];
    Slot& slot = group.slots[stop.slot()];
    CHECK(slot.sequence != 0);
    --group.live_sequences;
    group.live_blocks -= slot.blocks;
    slot = Slot();
  }
  for (const v1::NewSequence& added : plan.new_sequences()) {
    Group& group = groups_[added.dp_group()];
    Slot& slot = group.slots[added.slot()];
    CHECK(slot.sequence == 0);
    ++group.live_sequences;
    slot.sequence = added.sequence();
    slot.prompt_len = added.prompt_len();
    slot.known = static_cast<uint32_t>(added.tokens_size());
    slot.computed = added.computed();
  }
  for (const v1::GrantedBlocks& granted : plan.granted()) {
    Group& group = groups_[granted.dp_group()];
    group.slots[granted.slot()].blocks += static_cast<uint32_t>(granted.blocks_size());
    group.live_blocks += static_cast<uint32_t>(granted.blocks_size());
  }
  // A prompt that reaches its end samples in this step, as those do that decode.
  for (const v1::PrefillChunk& chunk : plan.prefill()) {
    Slot& slot = groups_[chunk.dp_group()].slots[chunk.slot()];
    slot.computed += chunk.tokens() - 1;
    slot.decoding = slot.computed + 1 == slot.known;
    if (!slot.decoding) ++slot.computed;
  }
  std::vector<GroupResult> results(groups_.size());
  for (size_t g = 0; g < groups_.size(); ++g) {
    Group& group = groups_[g];
    GroupResult& result = results[g];
    result.live_sequences = group.live_sequences;
    result.live_blocks = group.live_blocks;
    result.tokens.reserve(group.live_sequences);
    for (uint32_t i = 0; i < group.slots.size(); ++i) {
      Slot& slot = group.slots[i];
      if (!slot.decoding) continue;
      v1::SampledToken& token = result.tokens.emplace_back();
      token.set_slot(i);
      token.set_sequence(slot.sequence);
      token.set_index(slot.known - slot.prompt_len);
      token.set_token_id(static_cast<uint32_t>((slot.sequence * 31 + slot.known) % 100'000) + 10);
      ++slot.computed;
      ++slot.known;
    }
  }
  return results;
}

}  // namespace whalepod
