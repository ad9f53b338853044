// The arithmetic of layouts, slices, schedules and memory on numbers worked out by hand.
#include "proto/plan/layout.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/plan/extents.h"
#include "proto/plan/memory.h"
#include "proto/plan/schedule.h"
#include "proto/plan/slices.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Layout MakeLayout(int dp, int tp, int ep, int moe_tp, int experts) {
  v1::Layout layout;
  layout.set_replicas(1);
  layout.set_pp(1);
  layout.set_dp(dp);
  layout.set_tp(tp);
  layout.set_ep(ep);
  layout.set_moe_tp(moe_tp);
  for (int g = 0; g < ep && experts > 0; ++g) {
    for (int64_t e = EvenPart(experts, ep, g).begin; e < EvenPart(experts, ep, g).end; ++e) {
      layout.add_expert_to_ep(g);
    }
  }
  return layout;
}

v1::ModelSpec SmallModel() {
  v1::ModelSpec m;
  m.set_num_hidden_layers(2);
  m.set_hidden_size(128);
  m.set_first_k_dense_replace(1);
  m.set_moe_layer_freq(1);
  m.set_intermediate_size(512);
  m.set_moe_intermediate_size(128);
  m.set_num_attention_heads(8);
  m.set_q_lora_rank(64);
  m.set_kv_lora_rank(64);
  m.set_qk_nope_head_dim(32);
  m.set_qk_rope_head_dim(16);
  m.set_v_head_dim(32);
  m.set_n_routed_experts(8);
  m.set_n_shared_experts(1);
  m.set_num_experts_per_tok(2);
  m.set_vocab_size(500);
  m.set_max_position_embeddings(1024);
  m.set_fp8_block_rows(128);
  m.set_fp8_block_cols(128);
  return m;
}

TEST(LayoutTest, Coordinates) {
  const v1::Layout layout = MakeLayout(3, 4, 6, 2, 0);
  const RankCoords at = CoordsOf(layout, 7);
  EXPECT_EQ(at.dp, 1);
  EXPECT_EQ(at.tp, 3);
  EXPECT_EQ(at.ep, 3);
  EXPECT_EQ(at.moe_tp, 1);
  EXPECT_EQ(WorldSize(layout), 12);
}

TEST(LayoutTest, KSegmentsArePowersOfTwoOfWholeGranules) {
  EXPECT_EQ(KSegments(18432, 32), 16);  // R1's dense down
  EXPECT_EQ(KSegments(2048, 32), 16);   // R1's shared down
  EXPECT_EQ(KSegments(128 * 128, 128), 16);
  EXPECT_EQ(KSegments(128, 32), 4);
  EXPECT_EQ(KSegments(96, 32), 1);  // 3 granules: no power of two
  EXPECT_EQ(KSegments(100, 32), 1);
  EXPECT_EQ(KSegments(192, 64), 1);
  v1::ModelSpec m = SmallModel();
  EXPECT_EQ(OProjSegments(m), 8);
  m.set_v_head_dim(48);  // granule lcm(32, 48) = 96 columns, 2 heads
  EXPECT_EQ(OProjSegments(m), 4);
}

TEST(LayoutTest, VocabularySegments) {
  const v1::ModelSpec m = SmallModel();  // ceil(500 / 16) = 32 ids a segment
  const v1::Layout layout = MakeLayout(1, 4, 1, 4, 8);
  EXPECT_EQ(VocabIdsOf(m, layout, 0).begin, 0);
  EXPECT_EQ(VocabIdsOf(m, layout, 0).end, 128);
  EXPECT_EQ(VocabIdsOf(m, layout, 3).begin, 384);
  EXPECT_EQ(VocabIdsOf(m, layout, 3).end, 500);
}

TEST(LayoutTest, EvenPartsPutLargerOnesFirst) {
  EXPECT_EQ(EvenPart(32, 3, 0).size(), 11);
  EXPECT_EQ(EvenPart(32, 3, 1).begin, 11);
  EXPECT_EQ(EvenPart(32, 3, 2).begin, 22);
  EXPECT_EQ(EvenPart(32, 3, 2).size(), 10);
  EXPECT_THAT(ExpertsOf(MakeLayout(3, 1, 3, 1, 8), 2), ElementsAre(6, 7));
}

TEST(LayoutTest, ErrorsNameTheDimensionAndTheDegreesThatWork) {
  const v1::ModelSpec m = SmallModel();
  const auto message = [&m](int dp, int tp, int ep, int moe_tp, int experts) {
    return std::string(CheckLayout(m, MakeLayout(dp, tp, ep, moe_tp, experts)).message());
  };
  EXPECT_EQ(message(1, 4, 1, 4, 8), "");
  EXPECT_THAT(message(1, 3, 1, 3, 8), HasSubstr("tp = 3 cannot split num_attention_heads = 8; "
                                                "degrees that work: 1, 2, 4"));
  EXPECT_THAT(message(1, 8, 1, 8, 8), HasSubstr("tp = 8 cannot split shared_experts.down_proj (K = "
                                                "128, cut in 4 segments)"));
  EXPECT_THAT(message(3, 1, 1, 3, 8), HasSubstr("moe_tp = 3 cannot split moe_intermediate_size = "
                                                "128; degrees that work: 1, 2, 4, 8, 16"));
  EXPECT_THAT(message(2, 2, 2, 1, 8), HasSubstr("dp * tp = 2 * 2 = 4 ranks, but ep * moe_tp = 2 * "
                                                "1 = 2"));
  EXPECT_THAT(message(12, 1, 12, 1, 8), HasSubstr("ep = 12 cannot split 8 experts"));
  EXPECT_THAT(message(2, 1, 2, 1, 7), HasSubstr("7 entries for 8 experts"));
  v1::Layout layout = MakeLayout(1, 1, 1, 1, 8);
  layout.set_pp(2);
  EXPECT_EQ(CheckLayout(m, layout).code(), absl::StatusCode::kUnimplemented);
  layout.set_pp(1);
  layout.set_replicas(2);
  EXPECT_EQ(CheckLayout(m, layout).code(), absl::StatusCode::kUnimplemented);
}

TEST(SlicesTest, KvBComesInThreeFormsAndScalesCoverTheirBlocks) {
  const v1::ModelSpec m = SmallModel();
  const v1::Layout layout = MakeLayout(1, 4, 1, 4, 8);
  const SliceExtent v = SliceOf(m, layout, CoordsOf(layout, 1), v1::TENSOR_ROLE_KV_B_V);
  EXPECT_EQ(v, (SliceExtent{.tensor_rows = 512,
                            .tensor_cols = 64,
                            .row0 = 2 * 64 + 32,
                            .rows = 32,
                            .col0 = 0,
                            .cols = 64,
                            .batch = 2,
                            .batch_stride = 64}));
  const SliceExtent scale = ScaleSliceOf(m, v);
  EXPECT_EQ(scale.tensor_rows, 4);
  EXPECT_EQ(scale.row0, 1);  // rows 160 to 256 are all in block 1
  EXPECT_EQ(scale.rows, 1);
  EXPECT_EQ(scale.cols, 1);
  // Two packed matrices of [32, 64] and, transposed, of [64, 32].
  EXPECT_EQ(DestBytes(v, v1::DTYPE_F8_E4M3, v1::TRANSFORM_PACK), 2 * 32 * 64);
  // moe_tp 4 cuts rows of 128-row blocks: rank 3's rows 96.. start inside block 0.
  const SliceExtent gate = SliceOf(m, layout, CoordsOf(layout, 3), v1::TENSOR_ROLE_EXPERT_GATE);
  EXPECT_EQ(gate.row0, 96);
  EXPECT_EQ(ScaleSliceOf(m, gate).row0, 0);
}

TEST(SlicesTest, PackedBytesArePadded) {
  EXPECT_EQ(PackedWeightBytes(v1::DTYPE_BF16, 33, 7), 64 * 8 * 2);
  EXPECT_EQ(PackedWeightBytes(v1::DTYPE_F8_E4M3, 32, 7), 32 * 8);
}

TEST(ExtentsTest, RowsAreOneRunAndColumnsAreStrided) {
  SliceExtent slice{.tensor_rows = 10, .tensor_cols = 6, .row0 = 2, .rows = 3, .cols = 6};
  EXPECT_EQ(ExtentOf(slice, v1::DTYPE_BF16, 1000),
            (Extent{.offset = 1024, .run = 36, .stride = 36, .count = 1}));
  slice.col0 = 4;
  slice.cols = 2;
  EXPECT_EQ(ExtentOf(slice, v1::DTYPE_BF16, 1000),
            (Extent{.offset = 1032, .run = 4, .stride = 12, .count = 3}));
  slice.rows = 0;
  EXPECT_EQ(ExtentOf(slice, v1::DTYPE_BF16, 1000).count, 0);
}

TEST(ScheduleTest, OrderOfTheForwardPass) {
  const v1::ModelSpec m = SmallModel();
  const v1::Layout layout = MakeLayout(2, 2, 2, 2, 8);
  v1::RuntimeSpec runtime;
  runtime.set_compute_dtype(v1::DTYPE_BF16);
  const v1::StepSchedule s = ScheduleOf(m, layout, runtime, 3);
  EXPECT_THAT(s.tag(),
              ElementsAre(v1::COLLECTIVE_TAG_EMBED, v1::COLLECTIVE_TAG_ATTN_INPUT,
                          v1::COLLECTIVE_TAG_ATTN_PARTIAL, v1::COLLECTIVE_TAG_ATTN_GATHER,
                          v1::COLLECTIVE_TAG_FFN_PARTIAL, v1::COLLECTIVE_TAG_FFN_GATHER,
                          v1::COLLECTIVE_TAG_ATTN_INPUT, v1::COLLECTIVE_TAG_ATTN_PARTIAL,
                          v1::COLLECTIVE_TAG_ATTN_GATHER, v1::COLLECTIVE_TAG_MOE_DISPATCH,
                          v1::COLLECTIVE_TAG_MOE_ACTIVATION, v1::COLLECTIVE_TAG_MOE_COMBINE,
                          v1::COLLECTIVE_TAG_SHARED_PARTIAL, v1::COLLECTIVE_TAG_MOE_GATHER,
                          v1::COLLECTIVE_TAG_SAMPLE_ROWS, v1::COLLECTIVE_TAG_SAMPLE));
  // world, tp0, tp1, moe_tp0, moe_tp1; rank 3 is in 0, 2, 4.
  EXPECT_EQ(GroupsOf(m, layout).size(), 5u);
  EXPECT_THAT(GroupsOfRank(m, layout, 3), ElementsAre(0, 2, 4));
  EXPECT_THAT(GroupsOf(m, layout)[4].ranks(), ElementsAre(2, 3));
  EXPECT_EQ(s.group(0), 2u);
  EXPECT_EQ(s.bytes_per_token(2), 64u * 4);  // half of the hidden state to one peer
  // Makes columns 64..127 for both DP groups, keeps those of its own slice.
  EXPECT_EQ(s.bytes_per_token(11), (2 * 64 - 64) * 4u);
  EXPECT_EQ(ScheduleOf(m, MakeLayout(1, 1, 1, 1, 8), runtime, 0).op_size(), 0);
}

}  // namespace
}  // namespace whalepod
