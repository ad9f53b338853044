// The whole of DeepSeek-R1, as a checkpoint of holes: planned, bound and read, rank after rank, as
// 16 and as 32 workers would, in under 1 GiB.
//
// Environment:
//   WHALEPOD_SPARSE_DIR    an R1 checkpoint to read; default: one is made in shared memory (its
//                          holes take none) and removed at the end
//   WHALEPOD_LARGE_RANKS   "0,7,15": only these ranks of each layout (-1 is the last); default: all
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/plan/planner.h"
#include "gtest/gtest.h"
#include "proto/plan/extents.h"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"
#include "proto/plan/validate.h"
#include "worker/weights/weights.h"

namespace whalepod {
namespace {

// Between two calls that give the arena's pages back.
constexpr int64_t kKeptBytes = 128 * kMiB;
constexpr int64_t kPieceBytes = 16 * kMiB;

struct Degrees {
  int dp, tp, ep, moe_tp;
};

// rchar of /proc/self/io: bytes that this process has read with any call. Reading it counts too:
// `own` says how many bytes that was.
struct ReadCount {
  int64_t bytes = 0;
  int64_t own = 0;
};
ReadCount BytesRead() {
  char text[1024];
  const UniqueFd fd(open("/proc/self/io", O_RDONLY | O_CLOEXEC));
  const ssize_t n = read(fd.get(), text, sizeof(text) - 1);
  if (n <= 0) return {};
  text[n] = '\0';
  long long rchar = 0;
  return std::sscanf(text, "rchar: %lld", &rchar) == 1 ? ReadCount{rchar, n} : ReadCount{};
}

// Of all threads.
double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// VmHWM: the most that was resident since the last ResetPeak().
int64_t PeakResident() {
  std::ifstream status("/proc/self/status");
  long long kib = -1;
  for (std::string line; std::getline(status, line);) {
    if (std::sscanf(line.c_str(), "VmHWM: %lld", &kib) == 1) break;
  }
  return kib * kKiB;
}
void ResetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// The address range of a rank's weight arena, with one small piece of memory behind all of it: what
// is loaded overwrites what was. The kernel counts a page for every place it is mapped at, so
// places that were written are given back too.
class DiscardedArena {
 public:
  explicit DiscardedArena(int64_t bytes) : bytes_(bytes) {
    const UniqueFd piece(memfd_create("discarded", MFD_CLOEXEC));
    void* data =
        mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED || ftruncate(piece.get(), kPieceBytes) != 0) return;
    data_ = static_cast<std::byte*>(data);
    for (int64_t at = 0; at < bytes_; at += kPieceBytes) {
      if (mmap(data_ + at, std::min(kPieceBytes, bytes_ - at), PROT_READ | PROT_WRITE,
               MAP_SHARED | MAP_FIXED, piece.get(), 0) == MAP_FAILED) {
        usable_ = false;
      }
    }
  }
  ~DiscardedArena() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  DiscardedArena(const DiscardedArena&) = delete;
  DiscardedArena& operator=(const DiscardedArena&) = delete;

  void* data() const { return usable_ ? data_ : nullptr; }
  // Called by all reading threads; one of them discards.
  void Progress(int64_t done) {
    int64_t kept = discarded_.load();
    if (done - kept >= kKeptBytes && discarded_.compare_exchange_strong(kept, done)) {
      madvise(data_, bytes_, MADV_DONTNEED);
    }
  }

 private:
  const int64_t bytes_;
  std::byte* data_ = nullptr;
  bool usable_ = true;
  std::atomic<int64_t> discarded_{0};
};

class SparseR1Test : public ::testing::TestWithParam<Degrees> {
 protected:
  static void SetUpTestSuite() {
    if (const char* given = std::getenv("WHALEPOD_SPARSE_DIR"); given != nullptr) {
      dir_ = given;
    } else {
      made_ = "/dev/shm/sparse-r1-" + std::to_string(getpid());
      dir_ = made_;
      const std::string command =
          absl::StrCat("python3 " WHALEPOD_TEST_TOOLS "/make_sparse_r1.py ", made_);
      ASSERT_EQ(std::system(command.c_str()), 0) << command;
    }
    auto checkpoint = Checkpoint::Open(dir_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->files.size(), 163u);
    EXPECT_EQ(checkpoint->tensors.size(), 91'991u);
    checkpoint_ = std::make_unique<Checkpoint>(*std::move(checkpoint));
  }
  static void TearDownTestSuite() {
    checkpoint_.reset();
    if (!made_.empty()) std::filesystem::remove_all(made_);
  }

  // A plan of the layout, bound and found valid.
  static v1::ShardingPlan BoundPlan(const Degrees& degrees) {
    PlanRequest request;
    request.model = checkpoint_->model;
    request.checkpoint = checkpoint_.get();
    request.dp = degrees.dp;
    request.tp = degrees.tp;
    request.ep = degrees.ep;
    request.moe_tp = degrees.moe_tp;
    auto plan = MakePlan(request);
    EXPECT_TRUE(plan.ok()) << plan.status();
    if (!plan.ok()) return {};
    EXPECT_TRUE(BindPlan(*checkpoint_, &*plan).ok()) << BindPlan(*checkpoint_, &*plan);
    EXPECT_TRUE(ValidatePlan(*plan).ok()) << ValidatePlan(*plan);
    EXPECT_EQ(plan->total_tensors(), 90'427);
    EXPECT_EQ(plan->total_bytes(), 673'150'611'808);
    return *std::move(plan);
  }

  static std::vector<int> ChosenRanks(int world) {
    std::vector<int> ranks;
    const char* given = std::getenv("WHALEPOD_LARGE_RANKS");
    if (given == nullptr) {
      for (int r = 0; r < world; ++r) ranks.push_back(r);
      return ranks;
    }
    for (const auto& text : absl::StrSplit(given, ',')) {
      int rank = 0;
      EXPECT_TRUE(absl::SimpleAtoi(text, &rank)) << given;
      if (rank < 0) rank += world;
      if (rank >= 0 && rank < world) ranks.push_back(rank);
    }
    return ranks;
  }

  static std::string made_, dir_;
  static std::unique_ptr<Checkpoint> checkpoint_;
};
std::string SparseR1Test::made_, SparseR1Test::dir_;
std::unique_ptr<Checkpoint> SparseR1Test::checkpoint_;

int64_t ExtentBytes(const v1::TensorSlices& slices) {
  int64_t bytes = 0;
  for (int i = 0; i < slices.name_size(); ++i) {
    const Extent extent = StoredExtent(slices, i);
    bytes += static_cast<int64_t>(slices.batch(i)) * extent.count * extent.run;
  }
  return bytes;
}

// What ranks own of one tensor, all together.
struct Owned {
  int64_t elements = 0;  // of the tensor
  int64_t owned = 0;
  int64_t bytes = 0;  // of the tensor
  uint32_t role = 0;
  bool is_scale = false;
};

// Ranks together own every tensor: routed experts exactly once, everything else in as many copies
// as data parallelism or replication makes; kv_b's K half counts twice (two forms). The tensors are
// the plan's to the byte.
void CheckTotals(const v1::ShardingPlan& plan) {
  std::map<uint32_t, Owned> tensors;
  for (const v1::RankPart& part : plan.ranks()) {
    const v1::TensorSlices& s = part.slices();
    for (int i = 0; i < s.name_size(); ++i) {
      Owned& tensor = tensors[s.name(i)];
      tensor.elements = static_cast<int64_t>(s.tensor_rows(i) * s.tensor_cols(i));
      tensor.bytes = tensor.elements * DTypeBytes(static_cast<v1::DType>(s.dtype(i)));
      tensor.owned += static_cast<int64_t>(s.batch(i) * s.rows(i) * s.cols(i));
      tensor.role = s.role(i);
      tensor.is_scale = s.is_scale(i) != 0;
    }
  }
  int64_t bytes = 0, routed = 0, wrong = 0;
  for (const auto& [name, t] : tensors) {
    bytes += t.bytes;
    // Blocks of scales that straddle ranks are owned by both.
    if (t.is_scale) {
      wrong += t.owned < t.elements;
    } else if (t.role == v1::TENSOR_ROLE_EXPERT_GATE || t.role == v1::TENSOR_ROLE_EXPERT_UP ||
               t.role == v1::TENSOR_ROLE_EXPERT_DOWN) {
      routed += t.owned;
      wrong += t.owned != t.elements;
    } else {
      wrong += t.owned < t.elements || t.owned * 2 % t.elements != 0;
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(static_cast<int64_t>(tensors.size()), plan.total_tensors());
  EXPECT_EQ(bytes, plan.total_bytes());
  const v1::ModelSpec& m = plan.model();
  EXPECT_EQ(routed,
            MoeLayers(m) * m.n_routed_experts() * 3 * m.hidden_size() * m.moe_intermediate_size());
}

// Loads one rank's part as its worker would.
void LoadRank(const v1::PlanPart& part) {
  int64_t arena_bytes = 0;
  for (const v1::LedgerItem& item : part.part().ledger().items()) {
    if (item.kind() == v1::LEDGER_KIND_WEIGHTS) arena_bytes = item.bytes();
  }
  DiscardedArena arena(arena_bytes);
  ASSERT_NE(arena.data(), nullptr);
  const int64_t expected = ExtentBytes(part.part().slices());
  std::atomic<int64_t> most_done{0}, total{0};
  ResetPeak();
  const ReadCount before = BytesRead();
  const double start = CpuSeconds();
  const absl::Status status = LoadWeights(
      part, arena.data(), arena_bytes, 2,
      [&](int64_t done, int64_t all) {
        total = all;
        for (int64_t most = most_done; done > most && !most_done.compare_exchange_weak(most, done);)
          ;
        arena.Progress(done);
      },
      nullptr);
  const double seconds = CpuSeconds() - start;
  const int64_t read = BytesRead().bytes - before.bytes - before.own;
  const int64_t peak = PeakResident();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(most_done, expected);
  EXPECT_EQ(total, expected);
  EXPECT_EQ(read, expected);
  EXPECT_LT(peak, kGiB);
  std::printf("rank %2u: %d slices, %s bytes read in %.1f s of CPU (%s/s), peak resident %s\n",
              part.part().rank(), part.part().slices().name_size(), FormatCount(read).c_str(),
              seconds, FormatBytes(static_cast<int64_t>(read / seconds)).c_str(),
              FormatBytes(peak).c_str());
  std::fflush(stdout);
}

TEST_P(SparseR1Test, EachRankReadsExactlyItsOwnBytesInLittleMemory) {
  ASSERT_NE(checkpoint_, nullptr);
  const v1::ShardingPlan plan = BoundPlan(GetParam());
  ASSERT_GT(plan.ranks_size(), 0);
  CheckTotals(plan);
  int64_t all = 0;
  for (const v1::RankPart& part : plan.ranks()) all += ExtentBytes(part.slices());
  const std::vector<int> ranks = ChosenRanks(plan.ranks_size());
  std::printf("%s: %d ranks own %s bytes; reading %zu of them\n", LayoutName(plan.layout()).c_str(),
              plan.ranks_size(), FormatCount(all).c_str(), ranks.size());
  for (const int rank : ranks) {
    const v1::PlanPart part = MakePlanPart(plan, rank);
    const absl::Status valid = ValidatePlanPart(part);
    ASSERT_TRUE(valid.ok()) << valid;
    LoadRank(part);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, SparseR1Test,
                         ::testing::Values(Degrees{1, 16, 1, 16}, Degrees{16, 1, 16, 1},
                                           Degrees{32, 1, 32, 1}, Degrees{2, 16, 16, 2}),
                         [](const auto& info) {
                           const Degrees& d = info.param;
                           return absl::StrCat("dp", d.dp, "_tp", d.tp, "_ep", d.ep, "_moe_tp",
                                               d.moe_tp);
                         });

}  // namespace
}  // namespace whalepod
