// Memory of one ledger item: one mapping of exactly the planned bytes behind a page that carries
// the item's name, so that /proc/PID/smaps shows item by item what a plan says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace whalepod {

// The page before an arena is a mapping named "memfd:whalepod-<item>", without access.
inline constexpr char kArenaPrefix[] = "whalepod-";

// What the kernel counts of one mapping: whole pages.
struct ArenaUsage {
  int64_t mapped = 0;
  int64_t resident = 0;
};

// Owns its mapping; movable. Memory starts zeroed and ends with the process: nothing is left in
// /dev/shm.
class Arena {
 public:
  struct Options {
    // Touch every page now, so that a step never waits for one and too little memory shows here.
    bool prefault = false;
  };

  Arena() = default;
  // Maps `bytes` for the ledger item `item`. RESOURCE_EXHAUSTED states what was asked for and what
  // the machine has left. Zero bytes map nothing.
  static absl::StatusOr<Arena> Create(const std::string& item, int64_t bytes,
                                      const Options& options);
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  ~Arena();

  // Aligned to 2 MiB; null for zero bytes.
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  // As /proc/self/smaps has it; NOT_FOUND if it doesn't list the mapping.
  absl::StatusOr<ArenaUsage> Usage() const;

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// One arena's mapping in a process.
struct ArenaMapping {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string item;
  ArenaUsage usage;
};
// The arenas in the text of an smaps file.
std::vector<ArenaMapping> ParseArenas(const std::string& smaps);

}  // namespace whalepod
