// Byte-pair encoding of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace whalepod {

// Merges the adjacent pair of lowest rank, the leftmost of equals, until no pair is left that
// merges. Immutable after it was filled; shared by threads.
class Bpe {
 public:
  static constexpr uint32_t kNoToken = ~0u;

  Bpe() { byte_tokens_.fill(kNoToken); }

  void SetByte(unsigned char byte, uint32_t id) { byte_tokens_[byte] = id; }
  uint32_t byte_token(unsigned char byte) const { return byte_tokens_[byte]; }
  // A pair added again gets the new rank.
  void AddMerge(uint32_t left, uint32_t right, uint32_t rank, uint32_t merged) {
    merges_[Key(left, right)] = {rank, merged};
  }
  // From here on a whole piece with these bytes is this token, whatever the merges make of it
  // ("ignore_merges").
  void AddWhole(std::string bytes, uint32_t id) { whole_[std::move(bytes)] = id; }
  void Reserve(size_t merges, size_t whole) {
    merges_.reserve(merges);
    whole_.reserve(whole);
  }

  // Memory that one thread needs.
  struct Scratch {
    struct Symbol {
      uint32_t id;
      uint32_t prev;
      uint32_t next;
    };
    struct Candidate {
      uint32_t rank;
      uint32_t at;  // symbol
      uint32_t left;
      uint32_t right;
      uint32_t merged;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
  };

  // Appends the tokens of `piece`, shorter than 4 GiB. O(n log n) in its length. Every byte of it
  // has a token.
  void Encode(absl::string_view piece, Scratch& scratch, std::vector<uint32_t>& out) const;

 private:
  struct Merge {
    uint32_t rank;
    uint32_t merged;
  };

  static uint64_t Key(uint32_t left, uint32_t right) { return uint64_t{left} << 32 | right; }
  void EncodeShort(absl::string_view piece, std::vector<uint32_t>& out) const;
  void EncodeLong(absl::string_view piece, Scratch& scratch, std::vector<uint32_t>& out) const;
  // Puts the pair that begins with symbol `at` on the heap, if it merges.
  void Push(uint32_t at, Scratch& scratch) const;

  std::array<uint32_t, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
  absl::flat_hash_map<std::string, uint32_t> whole_;
};

}  // namespace whalepod
