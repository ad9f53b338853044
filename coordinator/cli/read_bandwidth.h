// How fast this machine reads memory.
#pragma once

#include <array>
#include <cstdint>

namespace whalepod {

// Ways of reading every line of a buffer: some streams side by side, asking ahead or not. The
// result depends on all that was read.
using ReadFn = uint64_t (*)(const char* data, int64_t bytes);
extern const std::array<ReadFn, 6> kReadWays;

// Bytes a second at which `threads` threads together read a buffer much larger than the caches, in
// the fastest of some plain ways; the best of several passes. Takes about a second.
double MeasureReadBandwidth(int threads);

}  // namespace whalepod
