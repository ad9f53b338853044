#include "worker/memory/arena.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "base/units.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Smaps() {
  std::ifstream in("/proc/self/smaps");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(ArenaTest, SmapsShowsEachItemWithItsBytes) {
  const int64_t page = sysconf(_SC_PAGESIZE);
  absl::StatusOr<Arena> weights = Arena::Create("test-weights", 3 * page, {});
  absl::StatusOr<Arena> kv = Arena::Create("test-kv", 5 * page - 7, {.prefault = true});
  ASSERT_TRUE(weights.ok()) << weights.status();
  ASSERT_TRUE(kv.ok()) << kv.status();
  EXPECT_EQ(weights->bytes(), 3 * page);
  EXPECT_EQ(kv->bytes(), 5 * page - 7);

  absl::StatusOr<ArenaUsage> usage = weights->Usage();
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->mapped, 3 * page);
  EXPECT_EQ(usage->resident, 0);
  usage = kv->Usage();
  ASSERT_TRUE(usage.ok()) << usage.status();
  EXPECT_EQ(usage->mapped, 5 * page);
  EXPECT_EQ(usage->resident, 5 * page);
}

TEST(ArenaTest, StartsZeroedAndIsGoneWithItsOwner) {
  {
    absl::StatusOr<Arena> arena = Arena::Create("test-gone", 100'000, {.prefault = true});
    ASSERT_TRUE(arena.ok()) << arena.status();
    for (int64_t i = 0; i < arena->bytes(); ++i) ASSERT_EQ(arena->data()[i], std::byte{0});
    arena->data()[99'999] = std::byte{1};
    Arena moved = std::move(*arena);
    EXPECT_THAT(Smaps(), HasSubstr("/memfd:whalepod-test-gone"));
    EXPECT_EQ(arena->data(), nullptr);
    EXPECT_EQ(moved.data()[99'999], std::byte{1});
  }
  EXPECT_THAT(Smaps(), Not(HasSubstr("whalepod-test-gone")));
}

TEST(ArenaTest, EmptyItemMapsNothing) {
  absl::StatusOr<Arena> arena = Arena::Create("test-empty", 0, {.prefault = true});
  ASSERT_TRUE(arena.ok()) << arena.status();
  EXPECT_EQ(arena->data(), nullptr);
  EXPECT_EQ(arena->Usage()->mapped, 0);
  EXPECT_THAT(Smaps(), Not(HasSubstr("whalepod-test-empty")));
}

TEST(ArenaTest, TooLargeIsRefusedWithBothSizes) {
  absl::StatusOr<Arena> arena = Arena::Create("kv", int64_t{1} << 50, {.prefault = true});
  ASSERT_EQ(arena.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(arena.status().message()), HasSubstr("\"kv\" needs"));
  EXPECT_THAT(std::string(arena.status().message()), HasSubstr("1125899906842624"));
  EXPECT_THAT(std::string(arena.status().message()), HasSubstr("available"));
  EXPECT_EQ(Arena::Create("kv", -1, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ArenaTest, SmapsLinesOfOthersAreIgnored) {
  const std::vector<ArenaMapping> arenas = ParseArenas(
      "7effffff0000-7f0000000000 ---p 00000000 00:01 17    /memfd:whalepod-kv (deleted)\n"
      "Size:                 64 kB\nRss:                   0 kB\nVmFlags: mr mw me\n"
      "7f0000000000-7f0000001000 rw-p 00000000 00:00 0\n"
      "Size:                  4 kB\nRss:                   0 kB\nVmFlags: rd wr\n"
      "7f0000001000-7f0000002000 ---p 00000000 00:00 0\n"
      "Size:                  4 kB\nRss:                   0 kB\nVmFlags: mr mw me\n"
      "7f0000002000-7f0000004000 rw-p 00000000 00:00 0    [heap]\n"
      "Size:                  8 kB\nRss:                   8 kB\n"
      "7f0000004000-7f0000005000 ---p 00000000 00:01 18    /memfd:whalepod-weights (deleted)\n"
      "Size:                  4 kB\nRss:                   0 kB\n"
      "7f0000005000-7f0000007000 rw-p 00000000 00:00 0\n"
      "Size:                  8 kB\nRss:                   4 kB\n");
  ASSERT_EQ(arenas.size(), 2u);
  EXPECT_EQ(arenas[0].item, "kv");
  EXPECT_EQ(arenas[0].begin, 0x7f0000000000u);
  EXPECT_EQ(arenas[0].usage.mapped, 4 * kKiB);
  EXPECT_EQ(arenas[1].item, "weights");
  EXPECT_EQ(arenas[1].end, 0x7f0000007000u);
  EXPECT_EQ(arenas[1].usage.mapped, 8 * kKiB);
  EXPECT_EQ(arenas[1].usage.resident, 4 * kKiB);
}

}  // namespace
}  // namespace whalepod
