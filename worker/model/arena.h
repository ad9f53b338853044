// Hands out pieces of one block of memory, one after another.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace whalepod {

// Buffers of the forward are carved once, at their largest. Blocks that never run at the same time
// share memory: the caller notes mark() and goes back to it with Reset(). With no memory behind it
// (base null) it only counts. Not thread-safe; does not own the memory.
class ActivationArena {
 public:
  static constexpr int64_t kAlignment = 64;

  ActivationArena(void* base, int64_t bytes)
      : base_(static_cast<std::byte*>(base)), bytes_(bytes) {}

  // `count` elements, aligned to 64 bytes, not cleared; null for none, when counting, and past the
  // end (needed() then says how much is missing).
  template <typename T = std::byte>
  T* Take(int64_t count) {
    const int64_t begin = used_;
    const int64_t size = count * static_cast<int64_t>(sizeof(T));
    used_ += (size + kAlignment - 1) / kAlignment * kAlignment;
    needed_ = std::max(needed_, used_);
    if (count == 0 || base_ == nullptr || used_ > bytes_) return nullptr;
    return reinterpret_cast<T*>(base_ + begin);
  }

  int64_t mark() const { return used_; }
  void Reset(int64_t mark) { used_ = mark; }
  // The most bytes that were in use at once.
  int64_t needed() const { return needed_; }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  int64_t bytes_;
  int64_t used_ = 0;
  int64_t needed_ = 0;
};

}  // namespace whalepod
