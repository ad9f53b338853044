// Every element is owned exactly as it should be: random models and layouts, element by element,
// against rules written down a second time here. And the bytes that a bound plan reads are those
// of the elements.
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "coordinator/plan/planner.h"
#include "gtest/gtest.h"
#include "proto/plan/extents.h"
#include "proto/plan/memory.h"
#include "proto/plan/validate.h"
#include "tests/coordinator/plan/fake_checkpoint.h"

namespace whalepod {
namespace {

// Where a rank of the layout stands.
struct Place {
  int tp, ep, moe_tp;
};

int64_t VocabSegment(int64_t vocab) { return ((vocab + 15) / 16 + 31) / 32 * 32; }

// Whether the rank should own element (r, c) of the [rows, cols] matrix of `role`.
bool ShouldOwn(const v1::ModelSpec& m, const v1::Layout& l, const Place& at, uint32_t role,
               int64_t expert, int64_t rows, int64_t cols, int64_t r, int64_t c) {
  const int64_t heads_here = m.num_attention_heads() / l.tp();
  const int64_t kv_rows = m.qk_nope_head_dim() + m.v_head_dim();
  switch (role) {
    case v1::TENSOR_ROLE_EMBED:
    case v1::TENSOR_ROLE_LM_HEAD:
      return r / VocabSegment(m.vocab_size()) / (16 / l.tp()) == at.tp;
    case v1::TENSOR_ROLE_Q:
    case v1::TENSOR_ROLE_Q_B:
      return r / (m.qk_nope_head_dim() + m.qk_rope_head_dim()) / heads_here == at.tp;
    case v1::TENSOR_ROLE_Q_A:
    case v1::TENSOR_ROLE_KV_A: {
      // Panels of 32 rows; ranks differ by one panel at most, larger ones first.
      const int64_t panels = (rows + 31) / 32;
      int64_t next = 0;
      for (int tp = 0; tp < l.tp(); ++tp) {
        next += panels / l.tp() + (tp < panels % l.tp() ? 1 : 0);
        if (r / 32 < next) return tp == at.tp;
      }
      return false;
    }
    case v1::TENSOR_ROLE_KV_B_K:
    case v1::TENSOR_ROLE_KV_B_KT:
      return r / kv_rows / heads_here == at.tp && r % kv_rows < m.qk_nope_head_dim();
    case v1::TENSOR_ROLE_KV_B_V:
      return r / kv_rows / heads_here == at.tp && r % kv_rows >= m.qk_nope_head_dim();
    case v1::TENSOR_ROLE_O:
      return c / m.v_head_dim() / heads_here == at.tp;
    case v1::TENSOR_ROLE_GATE:
    case v1::TENSOR_ROLE_UP:
    case v1::TENSOR_ROLE_SHARED_GATE:
    case v1::TENSOR_ROLE_SHARED_UP:
      return r / (rows / l.tp()) == at.tp;
    case v1::TENSOR_ROLE_DOWN:
    case v1::TENSOR_ROLE_SHARED_DOWN:
      return c / (cols / l.tp()) == at.tp;
    case v1::TENSOR_ROLE_EXPERT_GATE:
    case v1::TENSOR_ROLE_EXPERT_UP:
    case v1::TENSOR_ROLE_EXPERT_DOWN: {
      // Sizes of EP groups differ by one at most, larger ones first.
      const int64_t n = m.n_routed_experts();
      int64_t begin = 0;
      for (int ep = 0; ep < at.ep; ++ep) begin += n / l.ep() + (ep < n % l.ep() ? 1 : 0);
      const int64_t size = n / l.ep() + (at.ep < n % l.ep() ? 1 : 0);
      return expert >= begin && expert < begin + size && r / (rows / l.moe_tp()) == at.moe_tp;
    }
    default:
      return true;
  }
}

using Key = std::tuple<uint32_t, uint32_t, uint32_t>;  // role, layer, expert

// One mark for each element of a tensor, row-major.
using Marks = std::vector<char>;

Marks MarksOf(const v1::TensorSlices& s, int i) {
  Marks marks(s.tensor_rows(i) * s.tensor_cols(i), 0);
  for (uint64_t b = 0; b < s.batch(i); ++b) {
    for (uint64_t r = 0; r < s.rows(i); ++r) {
      for (uint64_t c = 0; c < s.cols(i); ++c) {
        const uint64_t row = s.row0(i) + b * s.batch_stride(i) + r;
        ++marks.at(row * s.tensor_cols(i) + s.col0(i) + c);
      }
    }
  }
  return marks;
}

Marks Expected(const v1::ModelSpec& m, const v1::Layout& l, const Place& at,
               const v1::TensorSlices& s, int i) {
  const auto rows = static_cast<int64_t>(s.tensor_rows(i));
  const auto cols = static_cast<int64_t>(s.tensor_cols(i));
  Marks marks;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      marks.push_back(ShouldOwn(m, l, at, s.role(i), s.expert(i), rows, cols, r, c));
    }
  }
  return marks;
}

// How often the slice's extent reads each element of the stored tensor.
Marks ReadsOf(const v1::TensorSlices& s, int i, const StoredTensor& stored) {
  const int64_t size = DTypeBytes(stored.dtype);
  Marks reads(s.tensor_rows(i) * s.tensor_cols(i), 0);
  const absl::Status status =
      ForEachRun(StoredExtent(s, i), static_cast<int64_t>(s.batch(i)),
                 [&](int64_t offset, int64_t bytes, int64_t, int64_t) {
                   EXPECT_EQ((offset - stored.offset) % size, 0);
                   EXPECT_EQ(bytes % size, 0);
                   for (int64_t b = 0; b < bytes; b += size) {
                     ++reads.at(static_cast<size_t>((offset - stored.offset + b) / size));
                   }
                   return absl::OkStatus();
                 });
  EXPECT_TRUE(status.ok());
  return reads;
}

// Marks of the scale blocks that hold a marked element.
Marks BlocksOf(const v1::ModelSpec& m, const Marks& weight, uint64_t weight_cols,
               uint64_t block_count, uint64_t block_cols) {
  Marks blocks(block_count, 0);
  for (size_t e = 0; e < weight.size(); ++e) {
    const uint64_t r = e / weight_cols / static_cast<uint64_t>(m.fp8_block_rows());
    const uint64_t c = e % weight_cols / static_cast<uint64_t>(m.fp8_block_cols());
    if (weight[e]) blocks[r * block_cols + c] = 1;
  }
  return blocks;
}

void CheckRank(const v1::ShardingPlan& plan, const Checkpoint& checkpoint, int rank) {
  const v1::ModelSpec& m = plan.model();
  const v1::Layout& l = plan.layout();
  const int in_group = rank % (l.dp() * l.tp());
  const Place at{in_group % l.tp(), in_group / l.moe_tp(), in_group % l.moe_tp()};
  const v1::TensorSlices& s = plan.ranks(rank).slices();
  std::map<Key, int> weights;  // index of the slice
  for (int i = 0; i < s.name_size(); ++i) {
    SCOPED_TRACE(absl::StrCat("rank ", rank, " ", plan.strings(s.name(i)), " role ", s.role(i)));
    const Marks own = MarksOf(s, i);
    const Key key{s.role(i), s.layer(i), s.expert(i)};
    if (s.is_scale(i) == 0) {
      ASSERT_TRUE(weights.emplace(key, i).second);
      ASSERT_EQ(own, Expected(m, l, at, s, i));
    } else {
      const int w = weights.at(key);
      const Marks blocks =
          BlocksOf(m, MarksOf(s, w), s.tensor_cols(w), own.size(), s.tensor_cols(i));
      for (size_t b = 0; b < blocks.size(); ++b) ASSERT_GE(own[b], blocks[b]);
      // Between the heads of kv_b's forms there may be blocks of the other form.
      if (s.batch_stride(w) == 0) {
        ASSERT_EQ(own, blocks);
      }
    }
    const StoredTensor& stored = checkpoint.tensors.at(plan.strings(s.name(i)));
    ASSERT_EQ(plan.strings(s.file(i)), checkpoint.files[stored.file]);
    ASSERT_EQ(ReadsOf(s, i, stored), own);
  }
}

TEST(OwnershipTest, RandomModelsAndLayouts) {
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 60; ++trial) {
    const v1::ModelSpec model = RandomModel(random);
    const Checkpoint checkpoint = FakeCheckpoint(model);
    PlanRequest request;
    request.model = model;
    request.checkpoint = &checkpoint;
    RandomLayout(random, model, &request);
    SCOPED_TRACE(absl::StrCat("trial ", trial, ": dp ", request.dp, " tp ", request.tp, " ep ",
                              request.ep, "\n", model.ShortDebugString()));
    auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const absl::Status bound = BindPlan(checkpoint, &*plan);
    ASSERT_TRUE(bound.ok()) << bound;
    const absl::Status valid = ValidatePlan(*plan);
    ASSERT_TRUE(valid.ok()) << valid;
    // Ranks at equal coordinates have equal slices; two of them are looked at in each layout.
    const int last = plan->ranks_size() - 1;
    CheckRank(*plan, checkpoint, static_cast<int>(random() % plan->ranks_size()));
    CheckRank(*plan, checkpoint, last);
    if (HasFatalFailure()) return;
  }
}

// A wide sweep without the element by element part: what the validator proves by tiling.
TEST(OwnershipTest, ManyLayoutsAreValid) {
  std::mt19937_64 random(11);
  for (int trial = 0; trial < 400; ++trial) {
    const v1::ModelSpec model = RandomModel(random);
    PlanRequest request;
    request.model = model;
    RandomLayout(random, model, &request);
    const auto plan = MakePlan(request);
    ASSERT_TRUE(plan.ok()) << plan.status() << "\n" << model.ShortDebugString();
    const absl::Status valid = ValidatePlan(*plan);
    ASSERT_TRUE(valid.ok()) << valid << "\n" << model.ShortDebugString();
  }
}

}  // namespace
}  // namespace whalepod
