#include "worker/kv/latent_pool.h"

#include <cstddef>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace whalepod {

absl::StatusOr<LatentPool> LatentPool::Create(const Shape& shape, void* arena, int64_t bytes) {
  LatentPool pool(shape, arena);
  const int64_t needed = shape.layers * pool.LayerBytes();
  if (bytes < needed) {
    return absl::ResourceExhaustedError(absl::StrCat("KV arena: ", shape.blocks, " blocks need ",
                                                     needed, " bytes, the arena has ", bytes));
  }
  return pool;
}

int64_t LatentPool::LayerBytes() const {
  return shape_.blocks * shape_.block_tokens * shape_.width * SizeOf(shape_.type);
}

LatentCache LatentPool::Layer(int64_t layer) const {
  CHECK(layer >= 0 && layer < shape_.layers);
  return {.base = static_cast<std::byte*>(arena_) + layer * LayerBytes(),
          .type = shape_.type,
          .block_tokens = shape_.block_tokens,
          .width = shape_.width,
          .block_stride = shape_.block_tokens * shape_.width,
          .blocks = shape_.blocks};
}

absl::Status BlockTable::Append(const LatentPool& pool, uint32_t block) {
  if (block >= static_cast<uint64_t>(pool.blocks())) {
    return absl::FailedPreconditionError(
        absl::StrCat("block ", block, " is not one of the pool's ", pool.blocks()));
  }
  blocks_.push_back(static_cast<int32_t>(block));
  return absl::OkStatus();
}

int64_t BlockTable::SlotOf(const LatentPool& pool, int64_t position) const {
  CHECK(position >= 0 && position < capacity(pool));
  return blocks_[position / pool.block_tokens()] * pool.block_tokens() +
         position % pool.block_tokens();
}

}  // namespace whalepod
