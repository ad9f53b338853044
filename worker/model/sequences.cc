#include "worker/model/sequences.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace whalepod {
namespace {

template <typename... Parts>
absl::Status Disagree(const Parts&... parts) {
  return absl::FailedPreconditionError(absl::StrCat(parts...));
}

// A bias that no logit comes near, and that stays finite divided by any temperature.
constexpr float kCertain = 1e30f;

class Fnv1a {
 public:
  template <typename T>
  void Add(T value) {
    for (size_t i = 0; i < sizeof(T); ++i) {
      hash_ = (hash_ ^ static_cast<uint8_t>(value >> (8 * i))) * 0x100000001b3u;
    }
  }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

// The `asked` best of a row.
template <typename Message>
void AddTop(const Sampled& row, size_t asked, Message& out) {
  for (size_t k = 0; k < std::min(asked, row.top.size()); ++k) {
    v1::TopLogprob* top = out.add_top();
    top->set_token_id(row.top[k].id);
    top->set_logprob(row.top[k].logprob);
  }
}

}  // namespace

SequenceTable::SequenceTable(const Dims& dims, const LatentPool& pool)
    : dims_(dims), pool_(pool), slots_(dims.max_seqs) {}

absl::Status SequenceTable::CheckGroup(uint32_t slot, uint32_t dp_group, const char* what) const {
  if (dp_group >= static_cast<uint32_t>(dims_.dp)) {
    return Disagree(what, ": DP group ", dp_group, ", there are ", dims_.dp);
  }
  if (slot >= slots_.size()) {
    return Disagree(what, ": slot ", slot, ", there are ", slots_.size());
  }
  return absl::OkStatus();
}

template <typename Entry>
absl::StatusOr<SequenceTable::Sequence*> SequenceTable::Find(const Entry& entry, const char* what) {
  RETURN_IF_ERROR(CheckGroup(entry.slot(), entry.dp_group(), what));
  if (entry.dp_group() != static_cast<uint32_t>(dims_.at.dp)) return nullptr;
  if (!slots_[entry.slot()]) return Disagree(what, ": slot ", entry.slot(), " is empty");
  return &*slots_[entry.slot()];
}

absl::Status SequenceTable::Add(const v1::NewSequence& entry) {
  RETURN_IF_ERROR(CheckGroup(entry.slot(), entry.dp_group(), "new sequence"));
  if (entry.dp_group() != static_cast<uint32_t>(dims_.at.dp)) return absl::OkStatus();
  std::optional<Sequence>& slot = slots_[entry.slot()];
  if (slot) {
    return Disagree("new sequence ", entry.sequence(), ": slot ", entry.slot(), " holds sequence ",
                    slot->id);
  }
  RETURN_IF_ERROR(Annotate(CheckNew(entry), absl::StrCat("new sequence ", entry.sequence())));
  Sequence& sequence = slot.emplace();
  sequence.id = entry.sequence();
  sequence.tokens.assign(entry.tokens().begin(), entry.tokens().end());
  sequence.prompt_len = entry.prompt_len();
  sequence.computed = entry.computed();
  sequence.sampling = entry.sampling();
  for (const v1::LogitBias& bias : entry.sampling().logit_bias()) {
    sequence.bias.push_back({static_cast<int32_t>(bias.token_id()), bias.bias()});
  }
  sequence.banned.assign(entry.sampling().banned_token_ids().begin(),
                         entry.sampling().banned_token_ids().end());
  sequence.thinking = ThinkingBudget(entry.sampling());
  if (sequence.thinking.limited()) {
    const auto end = static_cast<int32_t>(entry.sampling().think_end());
    sequence.closing = sequence.bias;
    std::erase_if(sequence.closing, [end](const LogitBias& bias) { return bias.id == end; });
    sequence.closing.push_back({end, kCertain});
  }
  for (int64_t i = 0; i < sequence.known(); ++i) {
    const bool generated = i >= sequence.prompt_len;
    if (generated) sequence.thinking.Add(sequence.tokens[i]);
    if (sequence.has_penalties()) {
      sequence.seen.Add(static_cast<int32_t>(sequence.tokens[i]), generated);
    }
  }
  return absl::OkStatus();
}

absl::Status SequenceTable::CheckNew(const v1::NewSequence& entry) const {
  if (entry.prompt_len() == 0 || entry.prompt_len() > static_cast<uint32_t>(entry.tokens_size()) ||
      entry.tokens_size() > dims_.max_positions) {
    return Disagree(entry.tokens_size(), " tokens with a prompt of ", entry.prompt_len(),
                    ", limit ", dims_.max_positions);
  }
  if (entry.computed() >= static_cast<uint32_t>(entry.tokens_size())) {
    return Disagree(entry.computed(), " of ", entry.tokens_size(), " tokens computed before");
  }
  for (uint32_t token : entry.tokens()) {
    if (token >= dims_.vocab) {
      return Disagree("token ", token, " is outside the vocabulary of ", dims_.vocab);
    }
  }
  return CheckSampling(entry.sampling());
}

absl::Status SequenceTable::CheckSampling(const v1::SamplingParams& sampling) const {
  if (sampling.logprobs() > HeadBlock::kMaxTop || sampling.prompt_logprobs() > HeadBlock::kMaxTop) {
    return Disagree(sampling.logprobs(), " logprobs and ", sampling.prompt_logprobs(),
                    " of the prompt, limit ", HeadBlock::kMaxTop);
  }
  for (const v1::LogitBias& bias : sampling.logit_bias()) {
    if (bias.token_id() >= dims_.vocab) {
      return Disagree("bias of token ", bias.token_id(), ", the vocabulary is ", dims_.vocab);
    }
  }
  if (sampling.has_thinking_budget() && sampling.think_end() >= dims_.vocab) {
    return Disagree("end of reasoning is token ", sampling.think_end(), ", the vocabulary is ",
                    dims_.vocab);
  }
  for (uint32_t token : sampling.banned_token_ids()) {
    if (token >= dims_.vocab) {
      return Disagree("banned token ", token, ", the vocabulary is ", dims_.vocab);
    }
  }
  return absl::OkStatus();
}

bool SequenceTable::Sequence::has_penalties() const {
  return (sampling.repetition_penalty() != 0 && sampling.repetition_penalty() != 1) ||
         sampling.presence_penalty() != 0 || sampling.frequency_penalty() != 0;
}

absl::Status SequenceTable::Apply(const v1::StepPlan& step) {
  for (const v1::StoppedSequence& stopped : step.stopped()) {
    ASSIGN_OR_RETURN(Sequence * sequence, Find(stopped, "stopped sequence"));
    if (sequence != nullptr) slots_[stopped.slot()].reset();
  }
  for (const v1::NewSequence& entry : step.new_sequences()) RETURN_IF_ERROR(Add(entry));
  for (const v1::GrantedBlocks& granted : step.granted()) {
    ASSIGN_OR_RETURN(Sequence * sequence, Find(granted, "granted blocks"));
    if (sequence == nullptr) continue;
    for (uint32_t block : granted.blocks()) RETURN_IF_ERROR(sequence->blocks.Append(pool_, block));
  }
  return SetRows(step);
}

absl::Status SequenceTable::SetRows(const v1::StepPlan& step) {
  for (std::optional<Sequence>& sequence : slots_) {
    if (sequence) sequence->step_rows = sequence->decoding ? 1 : 0;
  }
  for (const v1::PrefillChunk& chunk : step.prefill()) {
    ASSIGN_OR_RETURN(Sequence * sequence, Find(chunk, "prefill chunk"));
    if (sequence == nullptr) continue;
    if (chunk.tokens() == 0 || chunk.tokens() > sequence->pending() || sequence->decoding ||
        sequence->step_rows > 0) {
      return Disagree("prefill chunk of ", chunk.tokens(), " tokens in slot ", chunk.slot(),
                      ": sequence ", sequence->id, " has computed ", sequence->computed, " of ",
                      sequence->known(), sequence->decoding ? " and decodes" : "",
                      sequence->step_rows > 0 ? " and has a chunk in this step" : "");
    }
    sequence->step_rows = chunk.tokens();
  }
  return absl::OkStatus();
}

absl::Status SequenceTable::CheckRoom(uint32_t slot, const Sequence& sequence) const {
  const int64_t end = sequence.computed + sequence.step_rows;
  if (end > sequence.blocks.capacity(pool_)) {
    return Disagree("sequence ", sequence.id, " in slot ", slot, " computes up to token ", end,
                    ", its blocks hold ", sequence.blocks.capacity(pool_));
  }
  if (end > dims_.max_positions) {
    return Disagree("sequence ", sequence.id, " in slot ", slot, " computes up to token ", end,
                    ", the limit is ", dims_.max_positions);
  }
  return absl::OkStatus();
}

void SequenceTable::AddRow(const Sequence& sequence, int64_t position, Batch& batch) const {
  batch.ids.push_back(static_cast<int32_t>(sequence.tokens[position]));
  batch.positions.push_back(static_cast<int32_t>(position));
  batch.cache_slots.push_back(sequence.blocks.SlotOf(pool_, position));
  batch.block_tables.push_back(sequence.blocks.data());
  ++batch.tokens;
}

void SequenceTable::AddSample(uint32_t slot, const Sequence& sequence, int64_t row,
                              Batch& batch) const {
  batch.sample_rows.push_back({.row = static_cast<int32_t>(row), .slot = slot});
  batch.temperature.push_back(sequence.sampling.temperature());
  batch.seed.push_back(sequence.sampling.seed());
  batch.generated.push_back(static_cast<uint32_t>(sequence.generated()));
  batch.choice.push_back(sequence.sampling.choice());
  batch.top_k = std::max<int64_t>(batch.top_k, sequence.sampling.logprobs());
  AddFilter(sequence, batch);
}

void SequenceTable::AddFilter(const Sequence& sequence, Batch& batch) {
  const v1::SamplingParams& sampling = sequence.sampling;
  const bool banned = sequence.generated() < sampling.min_tokens() && !sequence.banned.empty();
  const bool cut = sampling.temperature() != 0 &&
                   (sampling.top_k() > 0 || (sampling.top_p() > 0 && sampling.top_p() < 1) ||
                    sampling.min_p() > 0);
  const bool closing = sequence.thinking.spent();
  if (!banned && !cut && !closing && !sequence.has_penalties() && sequence.bias.empty()) return;
  const auto or_one = [](float value) { return value == 0 ? 1.0f : value; };
  SampleFilter filter{.seen = sequence.seen.counts(),
                      .repetition_penalty = or_one(sampling.repetition_penalty()),
                      .presence_penalty = sampling.presence_penalty(),
                      .frequency_penalty = sampling.frequency_penalty(),
                      .bias = sequence.bias,
                      .temperature = sampling.temperature(),
                      .top_k = sampling.top_k(),
                      .top_p = or_one(sampling.top_p()),
                      .min_p = sampling.min_p(),
                      .seed = sampling.seed(),
                      .position = static_cast<uint32_t>(sequence.generated()),
                      .choice = sampling.choice()};
  if (closing) {
    filter.bias = sequence.closing;
  } else if (banned) {
    filter.banned = sequence.banned;
  }
  batch.filtered.push_back({.sample = batch.samples() - 1, .filter = filter});
}

void SequenceTable::AddScores(uint32_t slot, const Sequence& sequence, const PromptSpan& span,
                              Batch& batch) {
  if (!sequence.sampling.has_prompt_logprobs()) return;
  batch.top_k = std::max<int64_t>(batch.top_k, sequence.sampling.prompt_logprobs());
  for (int64_t i = 0; i < span.rows; ++i) {
    const int64_t next = span.pos0 + i + 1;
    if (next >= sequence.prompt_len) return;
    batch.score_rows.push_back({.row = static_cast<int32_t>(span.row0 + i),
                                .slot = slot,
                                .target = static_cast<int32_t>(sequence.tokens[next]),
                                .position = static_cast<uint32_t>(next)});
  }
}

absl::Status SequenceTable::SetGroupTokens(const v1::StepPlan& step, Batch& batch) const {
  batch.group_tokens.assign(step.group_tokens().begin(), step.group_tokens().end());
  if (batch.group_tokens.empty()) batch.group_tokens.assign(dims_.dp, 0);
  if (static_cast<int>(batch.group_tokens.size()) != dims_.dp) {
    return Disagree("group_tokens has ", batch.group_tokens.size(), " entries, there are ",
                    dims_.dp, " DP groups");
  }
  for (int64_t tokens : batch.group_tokens) {
    if (tokens > dims_.max_tokens) {
      return Disagree("group_tokens: ", tokens, " in a step, the limit is ", dims_.max_tokens);
    }
  }
  if (batch.group_tokens[dims_.at.dp] != batch.tokens) {
    return Disagree("DP group ", dims_.at.dp, " has ", batch.tokens,
                    " rows in this step, the coordinator counts ", batch.group_tokens[dims_.at.dp]);
  }
  return absl::OkStatus();
}

absl::StatusOr<Batch> SequenceTable::Layout(const v1::StepPlan& step) {
  Batch batch;
  std::vector<int64_t> last_row(slots_.size(), -1);
  for (bool prompt : {true, false}) {
    for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
      if (!slots_[slot] || slots_[slot]->step_rows == 0) continue;
      const Sequence& sequence = *slots_[slot];
      if (prompt) RETURN_IF_ERROR(CheckRoom(slot, sequence));
      const int64_t end = sequence.computed + sequence.step_rows;
      const int64_t cut = std::clamp(sequence.prompt_len, sequence.computed, end);
      const Range positions = prompt ? Range{sequence.computed, cut} : Range{cut, end};
      if (positions.size() == 0) continue;
      if (prompt) {
        batch.prompt_spans.push_back({.row0 = batch.tokens,
                                      .rows = positions.size(),
                                      .pos0 = positions.begin,
                                      .block_table = sequence.blocks.data()});
        AddScores(slot, sequence, batch.prompt_spans.back(), batch);
      }
      for (int64_t p = positions.begin; p < positions.end; ++p) AddRow(sequence, p, batch);
      if (positions.end == end) last_row[slot] = batch.tokens - 1;
    }
    if (prompt) batch.prompt_rows = batch.tokens;
  }
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    if (last_row[slot] < 0 || slots_[slot]->pending() != slots_[slot]->step_rows) continue;
    AddSample(slot, *slots_[slot], last_row[slot], batch);
  }
  RETURN_IF_ERROR(SetGroupTokens(step, batch));
  batch.top_k = std::min(batch.top_k, dims_.vocab);
  return batch;
}

SequenceTable::Results SequenceTable::Commit(const Batch& batch,
                                             absl::Span<const Sampled> results) {
  CHECK_EQ(static_cast<int64_t>(results.size()), batch.scores() + batch.samples());
  for (std::optional<Sequence>& sequence : slots_) {
    if (sequence) sequence->computed += sequence->step_rows;
  }
  Results out;
  for (size_t i = 0; i < batch.score_rows.size(); ++i) {
    const ScoreRow& row = batch.score_rows[i];
    const Sequence& sequence = *slots_[row.slot];
    v1::PromptLogprob& score = out.prompt.emplace_back();
    score.set_sequence(sequence.id);
    score.set_position(row.position);
    score.set_token_id(static_cast<uint32_t>(row.target));
    score.set_logprob(results[i].logprob);
    score.set_error(results[i].error);
    AddTop(results[i], sequence.sampling.prompt_logprobs(), score);
  }
  const absl::Span<const Sampled> sampled = results.subspan(batch.score_rows.size());
  for (size_t i = 0; i < sampled.size(); ++i) {
    Sequence& sequence = *slots_[batch.sample_rows[i].slot];
    v1::SampledToken& token = out.tokens.emplace_back();
    token.set_slot(batch.sample_rows[i].slot);
    token.set_sequence(sequence.id);
    token.set_index(batch.generated[i]);
    token.set_token_id(sampled[i].id);
    token.set_error(sampled[i].error);
    const int32_t asked = sequence.sampling.logprobs();
    if (asked >= 0) {
      token.set_logprob(sampled[i].logprob);
      AddTop(sampled[i], static_cast<size_t>(asked), token);
    }
    sequence.tokens.push_back(sampled[i].id);
    sequence.thinking.Add(static_cast<uint32_t>(sampled[i].id));
    sequence.decoding = true;
    if (sequence.has_penalties()) sequence.seen.Add(sampled[i].id, /*generated=*/true);
  }
  return out;
}

SequenceTable::Held SequenceTable::held() const {
  Held held;
  for (const std::optional<Sequence>& sequence : slots_) {
    if (!sequence) continue;
    ++held.sequences;
    held.blocks += sequence->blocks.size();
  }
  return held;
}

uint64_t SequenceTable::Digest() const {
  Fnv1a digest;
  for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
    if (!slots_[slot]) continue;
    const Sequence& sequence = *slots_[slot];
    digest.Add<uint32_t>(slot);
    digest.Add<uint64_t>(sequence.id);
    digest.Add<uint32_t>(static_cast<uint32_t>(sequence.computed));
    digest.Add<uint32_t>(sequence.blocks.size());
    digest.Add<uint32_t>(sequence.tokens.back());
  }
  return digest.hash();
}

}  // namespace whalepod
