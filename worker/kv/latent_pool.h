// The paged cache of latents of one rank: blocks of tokens, cut from the KV arena.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace whalepod {

// Every layer has the same blocks; a sequence's block table is one list for all layers. Layer l's
// part is [blocks][block_tokens][width], layers one after another. Does not own the memory.
class LatentPool {
 public:
  struct Shape {
    int64_t layers = 0;
    int64_t blocks = 0;
    int64_t block_tokens = 64;
    int64_t width = 0;  // kv_lora + rope
    DType type = DType::kBF16;
  };
  // RESOURCE_EXHAUSTED if the arena is smaller than its blocks (both numbers).
  static absl::StatusOr<LatentPool> Create(const Shape& shape, void* arena, int64_t bytes);

  LatentCache Layer(int64_t layer) const;
  int64_t blocks() const { return shape_.blocks; }
  int64_t block_tokens() const { return shape_.block_tokens; }

 private:
  LatentPool(const Shape& shape, void* arena) : shape_(shape), arena_(arena) {}
  int64_t LayerBytes() const;

  Shape shape_;
  void* arena_;
};

// Where one sequence's tokens are cached.
class BlockTable {
 public:
  // FAILED_PRECONDITION for a block that the pool does not have.
  absl::Status Append(const LatentPool& pool, uint32_t block);
  // Tokens that the granted blocks hold.
  int64_t capacity(const LatentPool& pool) const {
    return static_cast<int64_t>(blocks_.size()) * pool.block_tokens();
  }
  uint32_t size() const { return static_cast<uint32_t>(blocks_.size()); }
  // Slot of the token at `position` < capacity: block * block_tokens + offset.
  int64_t SlotOf(const LatentPool& pool, int64_t position) const;
  // Valid until the next Append.
  const int32_t* data() const { return blocks_.data(); }

 private:
  std::vector<int32_t> blocks_;
};

}  // namespace whalepod
