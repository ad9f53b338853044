#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "plan_builder.h"
#include "worker/weights/weights.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

class WeightMapTest : public ::testing::Test {
 protected:
  absl::StatusOr<WeightMap> Create() {
    arena_.assign(plan_.arena_bytes(), std::byte{0});
    return WeightMap::Create(plan_.part(), arena_.data(), std::ssize(arena_));
  }
  // The scale that the map gives to output i, input j, as an index into the arena's floats.
  static float ScaleOf(const PackedMatrix& m, int64_t i, int64_t j) {
    return m.scales[((i + m.phase_n) / m.block_n) * m.scale_stride_n +
                    ((j + m.phase_k) / m.block_k) * m.scale_stride_k];
  }
  // Gives every element of a scale slice the value 1000 * row + col of the whole grid.
  void FillGrid(int64_t offset, const TestSlice& grid) {
    float* at = reinterpret_cast<float*>(arena_.data() + offset);
    for (int64_t b = 0; b < grid.batch; ++b) {
      for (int64_t r = 0; r < grid.rows; ++r) {
        for (int64_t c = 0; c < grid.cols; ++c) {
          *at++ = 1000.0f * (grid.row0 + b * grid.batch_stride + r) + (grid.col0 + c);
        }
      }
    }
  }
  // Every element of every entry must see the scale of its own block.
  void CheckScales(const TestSlice& weight, const TestSlice& grid) {
    plan_.Add(weight);
    const int64_t grid_offset = plan_.Add(grid);
    absl::StatusOr<WeightMap> map = Create();
    ASSERT_TRUE(map.ok()) << map.status();
    FillGrid(grid_offset, grid);
    absl::StatusOr<std::vector<PackedMatrix>> entries =
        map->Packed(weight.role, weight.layer, weight.expert);
    ASSERT_TRUE(entries.ok()) << entries.status();
    ASSERT_EQ(std::ssize(*entries), weight.batch);
    for (int64_t b = 0; b < weight.batch; ++b) {
      for (int64_t r = 0; r < weight.rows; ++r) {
        for (int64_t c = 0; c < weight.cols; ++c) {
          const int64_t row = weight.row0 + b * weight.batch_stride + r;
          const float expected = 1000.0f * (row / 128) + (weight.col0 + c) / 128;
          const bool transposed = weight.transform == v1::TRANSFORM_PACK_TRANSPOSED;
          const PackedMatrix& m = (*entries)[b];
          ASSERT_EQ(transposed ? ScaleOf(m, c, r) : ScaleOf(m, r, c), expected)
              << "entry " << b << " row " << r << " column " << c;
        }
      }
    }
  }

  PlanBuilder plan_{"/nowhere"};
  std::vector<std::byte> arena_;
};

TestSlice Fp8(v1::TensorRole role) {
  TestSlice t;
  t.role = role;
  t.dtype = DType::kF8E4M3;
  return t;
}

TestSlice ScalesOf(const TestSlice& weight) {
  TestSlice t;
  t.role = weight.role;
  t.layer = weight.layer;
  t.expert = weight.expert;
  t.is_scale = true;
  t.dtype = DType::kF32;
  t.transform = v1::TRANSFORM_COPY;
  t.tensor_rows = (weight.tensor_rows + 127) / 128;
  t.tensor_cols = (weight.tensor_cols + 127) / 128;
  t.row0 = weight.row0 / 128;
  const int64_t last = weight.row0 + (weight.batch - 1) * weight.batch_stride + weight.rows - 1;
  t.rows = last / 128 - t.row0 + 1;
  t.col0 = weight.col0 / 128;
  t.cols = (weight.col0 + weight.cols - 1) / 128 - t.col0 + 1;
  return t;
}

TEST_F(WeightMapTest, SliceInsideABlockCarriesItsPhase) {
  TestSlice weight = Fp8(v1::TENSOR_ROLE_EXPERT_GATE);
  weight.layer = 3;
  weight.expert = 7;
  weight.tensor_rows = 700;
  weight.tensor_cols = 500;
  weight.row0 = 175;
  weight.rows = 350;
  weight.col0 = 96;
  weight.cols = 288;
  CheckScales(weight, ScalesOf(weight));
}

TEST_F(WeightMapTest, HeadsOfKvBShareBlocksWithTheirNeighbours) {
  TestSlice weight = Fp8(v1::TENSOR_ROLE_KV_B_K);
  weight.tensor_rows = 8 * 64;  // heads of 32 key rows, then 32 value rows
  weight.tensor_cols = 200;
  weight.row0 = 3 * 64;
  weight.rows = 32;
  weight.cols = 200;
  weight.batch = 5;
  weight.batch_stride = 64;
  CheckScales(weight, ScalesOf(weight));
}

TEST_F(WeightMapTest, TransposedFormSwapsBlocksAndPhases) {
  TestSlice weight = Fp8(v1::TENSOR_ROLE_KV_B_KT);
  weight.transform = v1::TRANSFORM_PACK_TRANSPOSED;
  weight.tensor_rows = 4 * 200;
  weight.tensor_cols = 300;
  weight.row0 = 200;
  weight.rows = 100;
  weight.cols = 300;
  weight.batch = 3;
  weight.batch_stride = 200;
  CheckScales(weight, ScalesOf(weight));
}

TEST_F(WeightMapTest, ScalesMayComeByEntry) {
  TestSlice weight = Fp8(v1::TENSOR_ROLE_KV_B_V);
  weight.tensor_rows = 4 * 256;
  weight.tensor_cols = 512;
  weight.row0 = 128;
  weight.rows = 128;
  weight.cols = 512;
  weight.batch = 4;
  weight.batch_stride = 256;
  TestSlice grid = ScalesOf(weight);
  grid.rows = 1;
  grid.batch = 4;
  grid.batch_stride = 2;
  CheckScales(weight, grid);
}

TEST_F(WeightMapTest, FindsByRoleLayerAndExpert) {
  TestSlice norm;
  norm.role = v1::TENSOR_ROLE_INPUT_NORM;
  norm.layer = 2;
  norm.transform = v1::TRANSFORM_COPY;
  norm.tensor_rows = norm.rows = 1;
  norm.tensor_cols = norm.cols = 96;
  const int64_t norm_at = plan_.Add(norm);
  TestSlice expert;
  expert.role = v1::TENSOR_ROLE_EXPERT_UP;
  expert.layer = 2;
  expert.expert = 9;
  expert.tensor_rows = expert.rows = 33;
  expert.tensor_cols = expert.cols = 65;
  const int64_t expert_at = plan_.Add(expert);
  absl::StatusOr<WeightMap> map = Create();
  ASSERT_TRUE(map.ok()) << map.status();

  absl::StatusOr<PlainTensor> plain = map->Plain(v1::TENSOR_ROLE_INPUT_NORM, 2);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->data, arena_.data() + norm_at);
  EXPECT_EQ(plain->cols, 96);
  absl::StatusOr<std::vector<PackedMatrix>> packed = map->Packed(v1::TENSOR_ROLE_EXPERT_UP, 2, 9);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ((*packed)[0].data, arena_.data() + expert_at);
  EXPECT_EQ((*packed)[0].n, 33);
  EXPECT_EQ((*packed)[0].k, 65);

  EXPECT_TRUE(map->Has(v1::TENSOR_ROLE_EXPERT_UP, 2));
  EXPECT_FALSE(map->Has(v1::TENSOR_ROLE_EXPERT_UP, 1));
  EXPECT_FALSE(map->Has(v1::TENSOR_ROLE_INPUT_NORM, 3));
  const absl::Status missing = map->Packed(v1::TENSOR_ROLE_EXPERT_UP, 2, 8).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()),
              HasSubstr("TENSOR_ROLE_EXPERT_UP of layer 2, expert 8"));
}

TEST_F(WeightMapTest, RefusesPartsThatContradictThemselves) {
  TestSlice weight;
  weight.tensor_rows = weight.rows = 64;
  weight.tensor_cols = weight.cols = 64;
  plan_.Add(weight);
  weight.layer = 1;
  plan_.Add(weight);
  const v1::PlanPart good = plan_.part();
  ASSERT_TRUE(Create().ok());

  struct Case {
    const char* what;
    std::function<void(v1::TensorSlices*)> spoil;
    const char* message;
  };
  const Case cases[] = {
      {"overlap", [](auto* s) { s->set_dest_offset(1, 64); }, "overlaps \"tensor0\""},
      {"outside", [](auto* s) { s->set_dest_offset(1, 8256); }, "outside an arena of"},
      {"size", [](auto* s) { s->set_dest_bytes(1, 8000); }, "expected 8192"},
      {"twice", [](auto* s) { s->set_layer(1, 0); }, "listed twice"},
      {"role", [](auto* s) { s->set_role(1, 99); }, "unknown role 99"},
      {"transform", [](auto* s) { s->set_transform(1, v1::TRANSFORM_PACK_TRANSPOSED); },
       "the plan says TRANSFORM_PACK_TRANSPOSED"},
      {"rows", [](auto* s) { s->set_row0(1, 1); }, "slice up to row 65"},
      {"huge", [](auto* s) { s->set_rows(1, uint64_t{1} << 60); }, "a side of"},
      {"overflow",
       [](auto* s) {
         s->set_rows(1, uint64_t{1} << 39);
         s->set_cols(1, uint64_t{1} << 39);
       },
       "overflows"},
      {"columns", [](auto* s) { s->mutable_rows()->RemoveLast(); }, "slice columns of 2 and 1"},
      {"string", [](auto* s) { s->set_name(1, 77); }, "string 77"},
      {"fp8",
       [](auto* s) {
         s->set_dtype(1, v1::DTYPE_F8_E4M3);
         s->set_dest_bytes(1, 4096);
         s->set_run(1, 4096);
       },
       "FP8 without scales"},
      {"run", [](auto* s) { s->set_run(1, 100); }, "1 runs of 100 bytes for a slice of 8192"},
  };
  for (const Case& c : cases) {
    plan_.part() = good;
    c.spoil(plan_.slices());
    const absl::Status status = Create().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.what;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message)) << c.what;
  }
}

TEST_F(WeightMapTest, ScalesThatDoNotCoverTheWeightAreRefused) {
  TestSlice weight = Fp8(v1::TENSOR_ROLE_O);
  weight.tensor_rows = weight.rows = 256;
  weight.tensor_cols = weight.cols = 256;
  TestSlice grid = ScalesOf(weight);
  grid.rows = 1;
  plan_.Add(weight);
  plan_.Add(grid);
  const absl::Status status = Create().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("needs scales [0..1][0..1]"));
}

}  // namespace
}  // namespace whalepod
