#include "coordinator/fleet/step_collector.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace whalepod {
namespace {

// No model is as deep; a metric is kept for each.
constexpr uint32_t kMostLayers = 1024;

// Adds a rank's report to that of the others, whose rows are of the same layers. INVALID_ARGUMENT
// if they are not, or if it is malformed.
absl::Status AddLoad(const v1::ExpertLoad& load, v1::ExpertLoad* sum) {
  const int rows = load.layers_size();
  if (load.experts() == 0 || load.tokens_size() != rows || load.most_size() != rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("an expert load of ", load.experts(), " experts in ", rows, " layers with ",
                     load.tokens_size(), " and ", load.most_size(), " counts"));
  }
  for (const uint32_t layer : load.layers()) {
    if (layer < kMostLayers) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("an expert load of layer ", layer, ", there are less than ", kMostLayers));
  }
  if (sum->experts() == 0) {
    *sum = load;
    return absl::OkStatus();
  }
  if (!std::equal(load.layers().begin(), load.layers().end(), sum->layers().begin(),
                  sum->layers().end())) {
    return absl::InvalidArgumentError("an expert load of other layers than other ranks'");
  }
  sum->set_experts(sum->experts() + load.experts());
  for (int i = 0; i < rows; ++i) {
    sum->set_tokens(i, sum->tokens(i) + load.tokens(i));
    sum->set_most(i, std::max(sum->most(i), load.most(i)));
  }
  return absl::OkStatus();
}

}  // namespace

StepCollector::StepCollector(const v1::Layout& layout)
    : tp_(std::max(1, layout.tp())), groups_(std::max(1, layout.dp())) {}

void StepCollector::Expect(uint64_t step, Duration limit, TimePoint now, uint64_t tokens) {
  CHECK(pending_.empty() || pending_.back().step + 1 == step);
  if (pending_.empty()) oldest_since_ = now;
  Pending& pending = pending_.emplace_back();
  pending.step = step;
  pending.limit = limit;
  pending.answered.assign(tp_ * groups_, false);
  pending.witness.resize(groups_);
  pending.digest.resize(groups_);
  pending.outcome.step = step;
  pending.outcome.tokens = tokens;
  pending.outcome.rank_micros.resize(tp_ * groups_);
  pending.outcome.groups.resize(groups_);
}

absl::StatusOr<std::optional<StepOutcome>> StepCollector::Add(int rank, v1::StepResult result,
                                                              TimePoint now) {
  // A rank runs steps in order: its answer is to the oldest step that it has not answered.
  const auto it = std::find_if(pending_.begin(), pending_.end(),
                               [rank](const Pending& p) { return !p.answered[rank]; });
  if (it == pending_.end() || it->step != result.step()) {
    return absl::InternalError(
        absl::StrCat("rank ", rank, " answered step ", result.step(), ", expected ",
                     it == pending_.end() ? std::string("none") : absl::StrCat("step ", it->step)));
  }
  const int group = group_of(rank);
  if (!it->witness[group].has_value()) {
    it->witness[group] = rank;
    it->digest[group] = result.digest();
  } else if (it->digest[group] != result.digest()) {
    return absl::InternalError(absl::StrCat(
        "step ", it->step, ": ranks of DP group ", group, " hold different sequences: rank ",
        *it->witness[group], " has digest ", absl::Hex(it->digest[group], absl::kZeroPad16),
        ", rank ", rank, " has ", absl::Hex(result.digest(), absl::kZeroPad16)));
  }
  it->answered[rank] = true;
  ++it->answers;
  it->outcome.rank_micros[rank] = result.compute_micros();
  if (result.has_expert_load()) {
    if (absl::Status added = AddLoad(result.expert_load(), &it->outcome.expert_load); !added.ok()) {
      return absl::InternalError(absl::StrCat("step ", it->step, ": ", added.message()));
    }
  }
  if (rank % tp_ == 0) {
    GroupResult& answer = it->outcome.groups[group];
    answer.live_sequences = result.live_sequences();
    answer.live_blocks = result.live_blocks();
    answer.tokens.reserve(result.tokens_size());
    for (v1::SampledToken& token : *result.mutable_tokens()) {
      answer.tokens.push_back(std::move(token));
    }
    std::vector<v1::PromptLogprob>& prompt = it->outcome.prompt;
    for (v1::PromptLogprob& token : *result.mutable_prompt()) prompt.push_back(std::move(token));
  }
  if (it->answers < tp_ * groups_) return std::nullopt;
  CHECK(it == pending_.begin());
  std::optional<StepOutcome> outcome = std::move(it->outcome);
  outcome->duration = now - oldest_since_;
  pending_.pop_front();
  oldest_since_ = now;
  return outcome;
}

void StepCollector::Forgive(Duration pause, TimePoint now) {
  oldest_since_ = std::min(now, oldest_since_ + pause);
}

std::vector<int> StepCollector::Late(TimePoint now) const {
  std::vector<int> late;
  if (pending_.empty() || now - oldest_since_ < pending_.front().limit) return late;
  for (int rank = 0; rank < tp_ * groups_; ++rank) {
    if (!pending_.front().answered[rank]) late.push_back(rank);
  }
  return late;
}

}  // namespace whalepod
