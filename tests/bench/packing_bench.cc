// Packing weights while they load against a memcpy of the same bytes: one thread, from a piece as
// the loader reads it (3.5 MiB, still in a cache) to the next place in an arena of 512 MiB. Both
// alternate; prints a line per type: GB/s of the two, and the ratio of their medians.
//
//   packing_bench [REPEATS]
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/packing.h"
#include "tests/bench/huge_pages.h"
#include "tests/bench/timing.h"

namespace whalepod {
namespace {

constexpr int64_t kArenaBytes = int64_t{512} << 20;
constexpr int64_t kColumns = 7168;
constexpr int64_t kPieceBytes = 512 * kColumns;

// The places of an arena, one after the other and again from its start.
class Arena {
 public:
  Arena() { std::memset(memory_, 1, kArenaBytes); }
  std::byte* Next() {
    at_ = at_ + 2 * kPieceBytes <= kArenaBytes ? at_ + kPieceBytes : 0;
    return memory_ + at_;
  }

 private:
  std::byte* memory_ = HugePages(kArenaBytes);
  int64_t at_ = 0;
};

void Compare(Arena& arena, DType dtype, int repeats) {
  std::vector<uint32_t> piece(kPieceBytes / 4);
  uint32_t state = 1;
  for (uint32_t& word : piece) word = state = state * 1664525u + 1013904223u;
  const int64_t rows = kPieceBytes / kColumns / SizeOf(dtype);
  std::vector<double> pack, copy;
  for (int i = 0; i < repeats; ++i) {
    copy.push_back(Seconds([&] { std::memcpy(arena.Next(), piece.data(), kPieceBytes); }));
    pack.push_back(Seconds(
        [&] { PackRows(dtype, piece.data(), kColumns, 0, rows, rows, kColumns, arena.Next()); }));
  }
  const double gigabytes = kPieceBytes / 1e9;
  std::printf("%-8s packing %.1f GB/s, memcpy %.1f GB/s, ratio %.2f\n", Name(dtype),
              gigabytes / Median(pack), gigabytes / Median(copy), Median(copy) / Median(pack));
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 2000;
  if (repeats < 1) {
    std::fprintf(stderr, "usage: packing_bench [REPEATS]\n");
    return 2;
  }
  whalepod::Arena arena;
  using whalepod::DType;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3}) {
    whalepod::Compare(arena, dtype, repeats);
  }
}
