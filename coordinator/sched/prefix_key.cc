#include "coordinator/sched/prefix_key.h"

#include <openssl/sha.h>

#include <algorithm>
#include <vector>

namespace whalepod {

PrefixKey KeyOfBlock(const PrefixKey& before, absl::Span<const uint32_t> tokens,
                     uint32_t prompt_tokens) {
  // In this process only: the order of bytes does not matter.
  std::vector<uint8_t> text(before.bytes.size() + sizeof(uint32_t) * (tokens.size() + 1));
  uint8_t* to = std::copy(before.bytes.begin(), before.bytes.end(), text.data());
  std::memcpy(to, &prompt_tokens, sizeof(prompt_tokens));
  std::memcpy(to + sizeof(prompt_tokens), tokens.data(), sizeof(uint32_t) * tokens.size());
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(text.data(), text.size(), digest);
  PrefixKey key;
  std::copy_n(digest, key.bytes.size(), key.bytes.begin());
  return key;
}

}  // namespace whalepod
