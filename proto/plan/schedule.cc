#include "proto/plan/schedule.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

constexpr uint32_t kNoGroup = UINT32_MAX;

struct GroupIndex {
  uint32_t world = kNoGroup, tp = kNoGroup, moe_tp = kNoGroup;
};

GroupIndex IndexOf(const v1::ModelSpec& model, const v1::Layout& layout, const RankCoords& at) {
  GroupIndex index;
  uint32_t next = 0;
  if (ReplicaSize(layout) > 1) index.world = next++;
  if (layout.tp() > 1) {
    index.tp = next + static_cast<uint32_t>(at.dp);
    next += static_cast<uint32_t>(layout.dp());
  }
  if (layout.moe_tp() > 1 && MoeLayers(model) > 0) {
    index.moe_tp = next + static_cast<uint32_t>(at.ep);
  }
  return index;
}

v1::Group RangeGroup(std::string name, int first, int size) {
  v1::Group group;
  group.set_name(std::move(name));
  for (int r = 0; r < size; ++r) group.add_ranks(static_cast<uint32_t>(first + r));
  return group;
}

int64_t Overlap(Range a, Range b) {
  return std::max<int64_t>(0, std::min(a.end, b.end) - std::max(a.begin, b.begin));
}

// Builds one rank's schedule; the methods are the steps of the forward pass.
class Builder {
 public:
  Builder(const v1::ModelSpec& model, const v1::Layout& layout, const v1::RuntimeSpec& runtime,
          int rank)
      : model_(model),
        layout_(layout),
        at_(CoordsOf(layout, rank)),
        groups_(IndexOf(model, layout, at_)),
        act_(DTypeBytes(runtime.compute_dtype())),
        columns_(EvenPart(model.hidden_size(), layout.tp(), at_.tp)),
        local_experts_(static_cast<int64_t>(ExpertsOf(layout, at_.ep).size())) {}

  v1::StepSchedule Build() {
    Gather(v1::COLLECTIVE_TAG_EMBED, 0, model_.hidden_size() * 4);
    for (int64_t layer = 0; layer < model_.num_hidden_layers(); ++layer) {
      Gather(v1::COLLECTIVE_TAG_ATTN_INPUT, layer, AttentionInputs() * 4);
      Partial(v1::COLLECTIVE_TAG_ATTN_PARTIAL, layer);
      Gather(v1::COLLECTIVE_TAG_ATTN_GATHER, layer, columns_.size() * 4);
      if (HasExperts(model_, layer)) {
        Moe(layer);
      } else {
        Partial(v1::COLLECTIVE_TAG_FFN_PARTIAL, layer);
        Gather(v1::COLLECTIVE_TAG_FFN_GATHER, layer, columns_.size() * 4);
      }
    }
    // A row's slice goes to the rank that samples it.
    Add(v1::COLLECTIVE_OP_ALL_TO_ALL, groups_.tp, v1::COLLECTIVE_TAG_SAMPLE_ROWS, 0, 0,
        VocabIdsOf(model_, layout_, at_.tp).size() * 4);
    // The best candidate, each segment's maximum and sum, and up to 20 best ids with two floats.
    const int64_t row = 12 + VocabSegmentsOf(layout_, at_.tp).size() * 8 + 20 * 12;
    Add(v1::COLLECTIVE_OP_ALL_GATHER, groups_.tp, v1::COLLECTIVE_TAG_SAMPLE, 0, 0,
        row * (layout_.tp() - 1));
    return std::move(schedule_);
  }

 private:
  void Add(v1::CollectiveOp op, uint32_t group, v1::CollectiveTag tag, int64_t layer,
           int64_t per_token, int64_t fixed) {
    if (group == kNoGroup) return;
    schedule_.add_op(op);
    schedule_.add_group(group);
    schedule_.add_tag(tag);
    schedule_.add_layer(static_cast<uint32_t>(layer));
    schedule_.add_bytes_per_token(static_cast<uint64_t>(per_token));
    schedule_.add_fixed_bytes(static_cast<uint64_t>(fixed));
  }

  // All-gather of `bytes` a token within the TP group.
  void Gather(v1::CollectiveTag tag, int64_t layer, int64_t bytes) {
    Add(v1::COLLECTIVE_OP_ALL_GATHER, groups_.tp, tag, layer, bytes * (layout_.tp() - 1), 0);
  }

  // Outputs of q_a and kv_a that this rank makes.
  int64_t AttentionInputs() const {
    return PanelPart(model_.q_lora_rank(), layout_.tp(), at_.tp).size() +
           PanelPart(model_.kv_lora_rank() + model_.qk_rope_head_dim(), layout_.tp(), at_.tp)
               .size();
  }

  // F32 partials of the whole hidden state to the owners of its slices within the TP group.
  void Partial(v1::CollectiveTag tag, int64_t layer) {
    Add(v1::COLLECTIVE_OP_ALL_TO_ALL, groups_.tp, tag, layer,
        (model_.hidden_size() - columns_.size()) * 4, 0);
  }

  void Moe(int64_t layer) {
    const int64_t world = ReplicaSize(layout_);
    if (layout_.dp() > 1) {
      // Rows on the wire: normalised hidden state, ids and weights of the route. The TP ranks of a
      // group share its rows.
      const int64_t row =
          RoundUp(model_.hidden_size() * act_, 4) + model_.num_experts_per_tok() * 8;
      Add(v1::COLLECTIVE_OP_ALL_GATHER, groups_.world, v1::COLLECTIVE_TAG_MOE_DISPATCH, layer,
          CeilDiv(row * (world - 1), layout_.tp()), 0);
    }
    const int64_t slots = std::min(model_.num_experts_per_tok(), local_experts_);
    const int64_t width = CeilDiv(model_.moe_intermediate_size(), layout_.moe_tp());
    Add(v1::COLLECTIVE_OP_ALL_GATHER, groups_.moe_tp, v1::COLLECTIVE_TAG_MOE_ACTIVATION, layer,
        layout_.dp() * slots * width * act_ * (layout_.moe_tp() - 1), 0);
    const Range made = EvenPart(model_.hidden_size(), layout_.moe_tp(), at_.moe_tp);
    Add(v1::COLLECTIVE_OP_ALL_TO_ALL, groups_.world, v1::COLLECTIVE_TAG_MOE_COMBINE, layer,
        (layout_.dp() * made.size() - Overlap(made, columns_)) * 4, 0);
    if (model_.n_shared_experts() > 0) Partial(v1::COLLECTIVE_TAG_SHARED_PARTIAL, layer);
    Gather(v1::COLLECTIVE_TAG_MOE_GATHER, layer, columns_.size() * 4);
  }

  const v1::ModelSpec& model_;
  const v1::Layout& layout_;
  const RankCoords at_;
  const GroupIndex groups_;
  const int64_t act_;
  const Range columns_;  // of the hidden state, that this rank sums
  const int64_t local_experts_;
  v1::StepSchedule schedule_;
};

}  // namespace

std::vector<v1::Group> GroupsOf(const v1::ModelSpec& model, const v1::Layout& layout) {
  std::vector<v1::Group> groups;
  const int world = ReplicaSize(layout);
  if (world > 1) groups.push_back(RangeGroup("world", 0, world));
  if (layout.tp() > 1) {
    for (int dp = 0; dp < layout.dp(); ++dp) {
      groups.push_back(RangeGroup(absl::StrCat("tp", dp), dp * layout.tp(), layout.tp()));
    }
  }
  if (layout.moe_tp() > 1 && MoeLayers(model) > 0) {
    for (int ep = 0; ep < layout.ep(); ++ep) {
      groups.push_back(
          RangeGroup(absl::StrCat("moe_tp", ep), ep * layout.moe_tp(), layout.moe_tp()));
    }
  }
  return groups;
}

std::vector<uint32_t> GroupsOfRank(const v1::ModelSpec& model, const v1::Layout& layout, int rank) {
  const GroupIndex index = IndexOf(model, layout, CoordsOf(layout, rank));
  std::vector<uint32_t> groups;
  for (uint32_t group : {index.world, index.tp, index.moe_tp}) {
    if (group != kNoGroup) groups.push_back(group);
  }
  return groups;
}

v1::StepSchedule ScheduleOf(const v1::ModelSpec& model, const v1::Layout& layout,
                            const v1::RuntimeSpec& runtime, int rank) {
  return Builder(model, layout, runtime, rank).Build();
}

}  // namespace whalepod
