#include "coordinator/cli/decode_bytes.h"

#include "coordinator/plan/presets.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

TEST(DecodeBytes, OfDeepSeekR1) {
  const v1::ModelSpec model = Preset("deepseek-r1").value();
  const DecodeBytes bytes = BytesPerToken(model, nullptr, v1::DTYPE_BF16);
  EXPECT_EQ(bytes.fp8, 35'591'487'488);
  EXPECT_EQ(bytes.half, 2'068'232'192);
  EXPECT_EQ(bytes.embedding_row, 2 * 7168);
  EXPECT_EQ(bytes.kv_per_position, 70'272);
  // One scale for 128x128 weights, rounded up per matrix (kv_a has 576 rows); the router's bias.
  const int64_t whole_blocks = 35'591'487'488 / (128 * 128) * 4;
  const int64_t ragged = 61 * (5 * 56 * 4 - 576 * 7168 / (128 * 128) * 4);
  EXPECT_EQ(bytes.f32, whole_blocks + ragged + 58 * 256 * 4);
  EXPECT_EQ(bytes.Total(1000), bytes.fp8 + bytes.half + bytes.f32 + 2 * 7168 + 70'272'000);
}

TEST(DecodeBytes, WithoutFp8AllIsBf16) {
  v1::ModelSpec model = Preset("deepseek-r1").value();
  model.set_fp8_block_rows(0);
  model.set_fp8_block_cols(0);
  const DecodeBytes bytes = BytesPerToken(model, nullptr, v1::DTYPE_F32);
  EXPECT_EQ(bytes.fp8, 0);
  EXPECT_EQ(bytes.half, 2 * int64_t{35'591'487'488} + 2'068'232'192);
  EXPECT_EQ(bytes.f32, 58 * 256 * 4);
  EXPECT_EQ(bytes.kv_per_position, 2 * 70'272);
}

TEST(DecodeBytes, ATiedHeadReadsTheEmbedding) {
  v1::ModelSpec model = Preset("deepseek-r1").value();
  model.set_tie_word_embeddings(true);
  EXPECT_EQ(BytesPerToken(model, nullptr, v1::DTYPE_BF16).half, 2'068'232'192);
}

TEST(DecodeBytes, TypesAreTheCheckpoints) {
  const v1::ModelSpec model = Preset("deepseek-r1").value();
  Checkpoint checkpoint;
  checkpoint.tensors["lm_head.weight"].dtype = v1::DTYPE_F32;
  const DecodeBytes stored = BytesPerToken(model, &checkpoint, v1::DTYPE_BF16);
  const DecodeBytes published = BytesPerToken(model, nullptr, v1::DTYPE_BF16);
  EXPECT_EQ(stored.f32 - published.f32, int64_t{4} * 129'280 * 7168);
  EXPECT_EQ(published.half - stored.half, int64_t{2} * 129'280 * 7168);
}

}  // namespace
}  // namespace whalepod
