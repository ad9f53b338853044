// Memory that benchmarks stream through.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

#include "base/check.h"

namespace whalepod {

// Zeros, in huge pages where the kernel gives them; until the process ends.
inline std::byte* HugePages(int64_t bytes) {
  void* memory = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return static_cast<std::byte*>(memory);
}

}  // namespace whalepod
