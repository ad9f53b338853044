// Names of KV blocks by what is in them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"

namespace whalepod {

// SHA-256, cut to 128 bits, of all tokens from the sequence's first to the block's last, and of the
// form of attention that computed each of them: blocks of one key hold the same bits, so to share
// one never changes a token.
struct PrefixKey {
  std::array<uint8_t, 16> bytes{};
  bool operator==(const PrefixKey&) const = default;
};

struct PrefixKeyHash {
  size_t operator()(const PrefixKey& key) const {
    size_t hash;
    std::memcpy(&hash, key.bytes.data(), sizeof(hash));
    return hash;
  }
};

// The key of the block that holds `tokens`, of which the first `prompt_tokens` are the prompt's
// (expanded form) and the others were generated (absorbed form). `before`: the key of the block
// before it; all zero for the first.
PrefixKey KeyOfBlock(const PrefixKey& before, absl::Span<const uint32_t> tokens,
                     uint32_t prompt_tokens);

}  // namespace whalepod
