// Scheduler::Commit: what the ranks answered.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/sched/scheduler.h"

namespace whalepod {
namespace {

// What generated tokens count in a tenant's share, where computed ones count 1.
constexpr double kGeneratedWeight = 2;

}  // namespace

absl::StatusOr<std::vector<SequenceEvent>> Scheduler::Commit(uint64_t step,
                                                             std::vector<GroupResult> groups) {
  if (in_flight_.empty() || in_flight_.front().step != step) {
    return absl::InternalError(absl::StrCat(
        "result of step ", step, " came, expected that of step ",
        in_flight_.empty() ? std::string("none") : absl::StrCat(in_flight_.front().step)));
  }
  Flight flight = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (groups.size() != groups_.size()) {
    return absl::InternalError(absl::StrCat("step ", step, ": results of ", groups.size(),
                                            " DP groups, expected ", groups_.size()));
  }
  std::vector<SequenceEvent> events;
  // Once for all groups: else each would move the events of those before it.
  size_t tokens = 0;
  for (const GroupResult& group : groups) tokens += group.tokens.size();
  events.reserve(tokens);
  for (uint32_t g = 0; g < groups.size(); ++g) {
    RETURN_IF_ERROR(Annotate(CommitGroup(g, flight.groups[g], groups[g], &events),
                             absl::StrCat("step ", step, ", DP group ", g)));
  }
  return events;
}

absl::Status Scheduler::CommitGroup(uint32_t g, GroupFlight& flight, GroupResult& result,
                                    std::vector<SequenceEvent>* events) {
  Group& group = groups_[g];
  for (const SlotChange& stop : flight.stops) {
    if (group.sampling[stop.slot] == stop.sequence) {
      group.sampling[stop.slot] = nullptr;
      --group.samples;
    }
    --stop.sequence->stops;
    Settle(stop.sequence);
  }
  for (const SlotChange& start : flight.starts) group.sampling[start.slot] = start.sequence;
  group.samples += static_cast<uint32_t>(flight.starts.size());
  ++counters_.audits;
  if (result.live_sequences != flight.live_sequences || result.live_blocks != flight.live_blocks) {
    ++counters_.audit_failures;
    return absl::InternalError(absl::StrCat(
        "the ranks hold ", result.live_sequences, " sequences and ", result.live_blocks,
        " blocks, expected ", flight.live_sequences, " and ", flight.live_blocks));
  }
  if (result.tokens.size() != group.samples) {
    return absl::InternalError(
        absl::StrCat(result.tokens.size(), " sampled tokens, expected ", group.samples));
  }
  for (v1::SampledToken& token : result.tokens) {
    Sequence* const sequence =
        token.slot() < group.sampling.size() ? group.sampling[token.slot()] : nullptr;
    if (sequence == nullptr) {
      return absl::InternalError(
          absl::StrCat("sampled token of slot ", token.slot(), ", which does not sample"));
    }
    RETURN_IF_ERROR(CommitToken(sequence, token, events));
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CommitToken(Sequence* sequence, v1::SampledToken& token,
                                    std::vector<SequenceEvent>* events) {
  if (token.sequence() != sequence->id || token.index() != sequence->results) {
    return absl::InternalError(absl::StrCat(
        "slot ", token.slot(), ": token of sequence ", token.sequence(), " index ", token.index(),
        ", expected sequence ", sequence->id, " index ", sequence->results));
  }
  ++sequence->results;
  if (sequence->ended) {
    ++counters_.overrun_tokens;
    Settle(sequence);
    return absl::OkStatus();
  }
  SequenceEvent& event = events->emplace_back();
  event.sequence = sequence->id;
  if (!token.error().empty()) {
    event.error = absl::DataLossError(
        absl::StrCat("generated token ", token.index(), " could not be sampled: ", token.error()));
    event.finished = true;
    ++counters_.failed;
  } else {
    const uint32_t id = token.token_id();
    event.has_token = true;
    event.token = std::move(token);
    sequence->tokens.push_back(id);
    sequence->tenant->served += kGeneratedWeight;
    if (sequence->committed() == 1) SetDue(sequence);
    if (sequence->state == State::kRunning && sequence->known() % config_.block_tokens == 0) {
      OfferBlocks(sequence);
    }
    if (EndsAt(*sequence, id)) {
      event.finished = true;
      event.reason = v1::FINISH_REASON_STOP;
    } else if (sequence->committed() == sequence->sampling.max_tokens()) {
      event.finished = true;
      event.reason = v1::FINISH_REASON_LENGTH;
    }
    if (event.finished) ++counters_.finished;
  }
  if (event.finished) End(sequence);
  Settle(sequence);
  return absl::OkStatus();
}

bool Scheduler::EndsAt(const Sequence& sequence, uint32_t token) const {
  const auto& stops = sequence.sampling.stop_token_ids();
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) return true;
  if (sequence.sampling.ignore_eos()) return false;
  const std::vector<uint32_t>& eos = config_.eos_token_ids;
  return std::find(eos.begin(), eos.end(), token) != eos.end();
}

}  // namespace whalepod
