// How much memory the machine has to give.
#pragma once

#include <cstdint>

namespace whalepod {

// Bytes that can be had without swapping (MemAvailable of /proc/meminfo); -1 where it can't be
// read.
int64_t AvailableMemory();

}  // namespace whalepod
