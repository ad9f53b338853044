#include "worker/model/rope.h"

#include <cmath>

#include "gtest/gtest.h"

namespace whalepod {
namespace {

v1::ModelSpec R1() {
  v1::ModelSpec model;
  model.set_qk_nope_head_dim(128);
  model.set_qk_rope_head_dim(64);
  model.set_rope_theta(10000);
  v1::YarnScaling* yarn = model.mutable_yarn();
  yarn->set_factor(40);
  yarn->set_original_max_position_embeddings(4096);
  yarn->set_beta_fast(32);
  yarn->set_beta_slow(1);
  yarn->set_mscale(1);
  yarn->set_mscale_all_dim(1);
  yarn->set_truncate(true);
  return model;
}

TEST(RopeTest, R1Frequencies) {
  const std::vector<double> f = RopeFrequencies(R1());
  ASSERT_EQ(f.size(), 32u);
  EXPECT_DOUBLE_EQ(f[0], 1.0);
  const std::pair<int, double> known[] = {
      {1, 7.498942093e-1},  {10, 5.623413252e-2}, {11, 3.900692657e-2},
      {12, 2.687936011e-2}, {16, 5.5e-3},         {20, 7.905694150e-4},
      {22, 1.778279410e-4}, {23, 3.333803580e-5}, {31, 3.333803580e-6}};
  for (const auto& [i, value] : known) EXPECT_NEAR(f[i] / value, 1.0, 1e-9) << i;
}

// R1 scales the softmax by m(1)^2 and leaves cos and sin alone.
TEST(RopeTest, R1Magnitudes) {
  EXPECT_DOUBLE_EQ(RopeMagnitude(R1()), 1.0);
  EXPECT_NEAR(AttentionScale(R1()), 0.1352337789, 1e-8);
}

TEST(RopeTest, OtherMagnitudes) {
  v1::ModelSpec model = R1();
  model.mutable_yarn()->set_mscale(0.707);
  const double ln = std::log(40.0);
  EXPECT_DOUBLE_EQ(RopeMagnitude(model), (0.0707 * ln + 1) / (0.1 * ln + 1));
  model.mutable_yarn()->set_mscale_all_dim(0);
  EXPECT_DOUBLE_EQ(RopeMagnitude(model), 0.1 * ln + 1);
  EXPECT_NEAR(AttentionScale(model), 1 / std::sqrt(192.0), 1e-8);
  model.mutable_yarn()->set_attention_factor(1.5);
  EXPECT_DOUBLE_EQ(RopeMagnitude(model), 1.5);
  model.clear_yarn();
  EXPECT_DOUBLE_EQ(RopeMagnitude(model), 1.0);
  EXPECT_NEAR(RopeFrequencies(model)[31], std::pow(10000.0, -62.0 / 64), 1e-18);
}

TEST(RopeTest, UntruncatedBordersBlendEarlier) {
  v1::ModelSpec model = R1();
  model.mutable_yarn()->set_truncate(false);
  const std::vector<double> f = RopeFrequencies(model);
  // The ramp runs from pair 10.4722 to pair 22.5134.
  const double ramp = (11 - 10.4722) / (22.5134 - 10.4722);
  const double plain = std::pow(10000.0, -22.0 / 64);
  EXPECT_NEAR(f[11], plain * (1 - ramp) + plain / 40 * ramp, 1e-6);
}

TEST(RopeTest, Tables) {
  const v1::ModelSpec model = R1();
  const std::vector<double> f = RopeFrequencies(model);
  std::vector<float> cos(5 * 32), sin(5 * 32);
  FillRopeTables(model, 5, cos.data(), sin.data());
  EXPECT_EQ(cos[0], 1.0f);
  EXPECT_EQ(sin[31], 0.0f);
  EXPECT_EQ(cos[4 * 32 + 7], static_cast<float>(std::cos(4 * f[7])));
  EXPECT_EQ(sin[3 * 32 + 2], static_cast<float>(std::sin(3 * f[2])));
}

}  // namespace
}  // namespace whalepod
