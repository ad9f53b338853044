#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "plan_builder.h"
#include "tests/kernels/packed_index.h"
#include "worker/weights/weights.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

// A folder with one file of random bytes.
class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = std::filesystem::path(::testing::TempDir()) /
           ("whalepod_load_" + std::to_string(getpid()) + "_" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(dir_);
    std::mt19937_64 random(1);
    file_.resize(6 << 20);
    for (size_t i = 0; i < file_.size(); i += 8) {
      const uint64_t word = random();
      std::memcpy(&file_[i], &word, 8);
    }
    Write(file_.size());
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(size_t bytes) {
    std::ofstream out(dir_ / "a.bin", std::ios::binary | std::ios::trunc);
    out.write(file_.data(), static_cast<std::streamsize>(bytes));
  }

  // Raw bytes of element (row, col) of the slice's entry in the file.
  const char* Source(const TestSlice& t, int64_t entry, int64_t row, int64_t col) const {
    const int64_t at = (t.row0 + entry * t.batch_stride + row) * t.tensor_cols + t.col0 + col;
    return file_.data() + t.tensor_offset + at * SizeOf(t.dtype);
  }

  // Compares every element in the arena, padding included, with the file.
  void Check(const TestSlice& t, const std::byte* dest) const {
    const int64_t size = SizeOf(t.dtype);
    const bool transposed = t.transform == v1::TRANSFORM_PACK_TRANSPOSED;
    for (int64_t b = 0; b < t.batch; ++b) {
      if (t.transform == v1::TRANSFORM_COPY) {
        for (int64_t r = 0; r < t.rows; ++r, dest += t.cols * size) {
          ASSERT_EQ(std::memcmp(dest, Source(t, b, r, 0), t.cols * size), 0) << "row " << r;
        }
        continue;
      }
      const int64_t n = transposed ? t.cols : t.rows;
      const int64_t k = transposed ? t.rows : t.cols;
      const int64_t padded_k = (k + 1) / 2 * 2;
      for (int64_t i = 0; i < (n + 31) / 32 * 32; ++i) {
        for (int64_t j = 0; j < padded_k; ++j) {
          const int64_t at = PackedIndex(t.dtype, i, j, k);
          char expected[4] = {};
          if (i < n && j < k) {
            std::memcpy(expected, transposed ? Source(t, b, j, i) : Source(t, b, i, j), size);
          }
          if (t.dtype == DType::kF8E4M3) {
            expected[0] = static_cast<char>(PackedE4M3(static_cast<uint8_t>(expected[0])));
          }
          ASSERT_EQ(std::memcmp(dest + at * size, expected, size), 0)
              << "entry " << b << " output " << i << " input " << j;
        }
      }
      dest += PackedBytes(t.dtype, n, k);
    }
  }

  absl::Status Load(PlanBuilder& plan, int threads) {
    arena_.assign(plan.arena_bytes(), std::byte{0});
    return LoadWeights(
        plan.part(), arena_.data(), std::ssize(arena_), threads,
        [this](int64_t done, int64_t total) {
          progress_calls_++;
          if (done == total) finished_ = true;
          total_ = total;
        },
        [this] { return cancelled_.load(); });
  }

  std::filesystem::path dir_;
  std::string file_;
  std::vector<std::byte> arena_;
  std::atomic<int> progress_calls_{0};
  std::atomic<bool> finished_{false};
  std::atomic<int64_t> total_{0};
  std::atomic<bool> cancelled_{false};
};

TestSlice RandomSlice(std::mt19937_64& random, int64_t layer) {
  const auto pick = [&random](int64_t lo, int64_t hi) {
    return lo + static_cast<int64_t>(random() % static_cast<uint64_t>(hi - lo + 1));
  };
  TestSlice t;
  t.layer = layer;
  const DType types[] = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};
  t.dtype = types[pick(0, 3)];
  t.transform = static_cast<v1::Transform>(pick(1, 3));
  t.batch = pick(0, 2) == 0 ? pick(2, 5) : 1;
  t.rows = pick(1, 130);
  t.batch_stride = t.batch == 1 ? 0 : t.rows + pick(0, 1) * pick(1, 20);
  t.row0 = pick(0, 40);
  t.tensor_rows = t.row0 + (t.batch - 1) * t.batch_stride + t.rows + pick(0, 20);
  t.cols = pick(1, 200);
  t.col0 = pick(0, 1) * pick(1, 30);
  t.tensor_cols = t.col0 + t.cols + pick(0, 1) * pick(1, 30);
  t.tensor_offset = pick(0, 4096);
  return t;
}

TEST_F(LoadTest, EveryElementOfRandomSlicesIsItsSource) {
  std::mt19937_64 random(7);
  PlanBuilder plan(dir_);
  std::vector<std::pair<TestSlice, int64_t>> slices;
  int64_t bytes = 0;
  for (int i = 0; i < 120; ++i) {
    const TestSlice t = RandomSlice(random, i);
    slices.emplace_back(t, plan.Add(t));
    bytes += t.batch * t.rows * t.cols * SizeOf(t.dtype);
  }
  for (const int threads : {1, 3}) {
    finished_ = false;
    const absl::Status status = Load(plan, threads);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(total_.load(), bytes);
    EXPECT_TRUE(finished_);
    for (const auto& [slice, dest] : slices) {
      SCOPED_TRACE(::testing::Message() << "slice " << slice.layer);
      Check(slice, arena_.data() + dest);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(LoadTest, LargeSlicesAreCutInPieces) {
  PlanBuilder plan(dir_);
  TestSlice t;
  t.dtype = DType::kF8E4M3;
  t.tensor_rows = 5000;
  t.row0 = 17;
  t.rows = 4950;
  t.tensor_cols = t.cols = 1021;
  const int64_t packed = plan.Add(t);
  TestSlice copy = t;
  copy.transform = v1::TRANSFORM_COPY;
  copy.col0 = 1;
  copy.cols = 1000;
  const int64_t copied = plan.Add(copy);
  const absl::Status status = Load(plan, 2);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_GE(progress_calls_, 4);
  Check(t, arena_.data() + packed);
  Check(copy, arena_.data() + copied);
}

// Bytes this process has asked read() and its kin for, as the kernel counts; -1 where it doesn't.
int64_t BytesRead() {
  const int fd = open("/proc/self/io", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  char text[512] = {};
  const ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  return n > 7 && std::strncmp(text, "rchar: ", 7) == 0 ? std::atoll(text + 7) : -1;
}

TEST_F(LoadTest, ReadsExactlyThePlannedBytes) {
  PlanBuilder plan(dir_);
  TestSlice t;
  t.dtype = DType::kBF16;
  t.tensor_rows = 1000;
  t.rows = 600;
  t.row0 = 30;
  t.tensor_cols = 512;
  t.col0 = 128;
  t.cols = 128;
  plan.Add(t);
  const int64_t before = BytesRead();
  if (before < 0) GTEST_SKIP() << "skipped, the kernel does not count reads";
  const int64_t own = BytesRead() - before;  // what counting itself reads
  const absl::Status status = Load(plan, 2);
  const int64_t after = BytesRead();
  ASSERT_TRUE(status.ok()) << status;
  // Counting reads a line whose length may change by a digit or two.
  EXPECT_NEAR(after - before - 2 * own, 600 * 128 * 2, 8);
}

TEST_F(LoadTest, TruncatedFileIsDataLossByName) {
  PlanBuilder plan(dir_);
  TestSlice t;
  t.dtype = DType::kF32;
  t.tensor_rows = t.rows = 100;
  t.tensor_cols = t.cols = 100;
  t.tensor_offset = 1000;
  plan.Add(t);
  Write(1000 + 12345);
  const absl::Status status = Load(plan, 2);
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  for (const char* part : {"a.bin", "\"tensor0\"", "expected 40000 bytes at 1000", "after 12345"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST_F(LoadTest, MissingFileIsNotFound) {
  PlanBuilder plan(dir_);
  TestSlice t;
  t.tensor_rows = t.rows = 2;
  t.tensor_cols = t.cols = 2;
  t.file = "gone.bin";
  plan.Add(t);
  const absl::Status status = Load(plan, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("gone.bin"));
}

TEST_F(LoadTest, CancelStopsIt) {
  PlanBuilder plan(dir_);
  TestSlice t;
  t.tensor_rows = t.rows = 64;
  t.tensor_cols = t.cols = 64;
  plan.Add(t);
  cancelled_ = true;
  EXPECT_EQ(Load(plan, 2).code(), absl::StatusCode::kAborted);
  EXPECT_EQ(progress_calls_, 1);
  EXPECT_FALSE(finished_);
}

TEST_F(LoadTest, UnboundPlanIsRefused) {
  PlanBuilder plan(dir_);
  TestSlice t;
  t.tensor_rows = t.rows = 64;
  t.tensor_cols = t.cols = 64;
  plan.Add(t);
  plan.slices()->clear_file();
  plan.slices()->clear_offset();
  plan.slices()->clear_run();
  plan.slices()->clear_stride();
  plan.slices()->clear_count();
  EXPECT_EQ(Load(plan, 1).code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace whalepod
