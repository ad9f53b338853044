// The limit that decode is measured against: reading memory and doing nothing with it.
#pragma once

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace whalepod {

// Reads memory with all threads of a pool, in whichever of some ways is fastest on this machine.
class MemoryReader {
 public:
  // Tries the ways on [data, data + bytes), which should be larger than the caches.
  MemoryReader(const void* data, int64_t bytes, cpu::ThreadPool& pool);
  // Reads every line once.
  void Read(const void* data, int64_t bytes) { ReadAs(fastest_, data, bytes); }

 private:
  void ReadAs(int way, const void* data, int64_t bytes);

  cpu::ThreadPool& pool_;
  int fastest_ = 0;
};

}  // namespace whalepod
