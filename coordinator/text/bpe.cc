#include "coordinator/text/bpe.h"

#include <algorithm>

namespace whalepod {
namespace {

// Up to here a scan for the lowest rank is faster than a heap.
constexpr size_t kShort = 40;
constexpr uint32_t kNone = ~0u;

struct After {
  bool operator()(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  }
};

}  // namespace

void Bpe::Encode(absl::string_view piece, Scratch& scratch, std::vector<uint32_t>& out) const {
  if (piece.size() == 1) {
    out.push_back(byte_tokens_[static_cast<unsigned char>(piece[0])]);
    return;
  }
  if (!whole_.empty()) {
    if (const auto whole = whole_.find(piece); whole != whole_.end()) {
      out.push_back(whole->second);
      return;
    }
  }
  if (piece.size() <= kShort) return EncodeShort(piece, out);
  EncodeLong(piece, scratch, out);
}

void Bpe::EncodeShort(absl::string_view piece, std::vector<uint32_t>& out) const {
  std::array<uint32_t, kShort> ids;
  std::array<Merge, kShort> pairs;  // pairs[i] merges ids[i] and ids[i + 1]
  size_t count = piece.size();
  for (size_t i = 0; i < count; ++i) ids[i] = byte_tokens_[static_cast<unsigned char>(piece[i])];
  const auto look_up = [this, &ids](size_t i) {
    const auto merge = merges_.find(Key(ids[i], ids[i + 1]));
    return merge == merges_.end() ? Merge{kNone, kNone} : merge->second;
  };
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNone) break;
    ids[best] = pairs[best].merged;
    std::copy(ids.data() + best + 2, ids.data() + count, ids.data() + best + 1);
    std::copy(pairs.data() + best + 1, pairs.data() + count - 1, pairs.data() + best);
    --count;
    if (best + 1 < count) pairs[best] = look_up(best);
    if (best > 0) pairs[best - 1] = look_up(best - 1);
  }
  out.insert(out.end(), ids.begin(), ids.begin() + count);
}

void Bpe::Push(uint32_t at, Scratch& scratch) const {
  const Scratch::Symbol& symbol = scratch.symbols[at];
  if (symbol.next == kNone) return;
  const uint32_t right = scratch.symbols[symbol.next].id;
  const auto merge = merges_.find(Key(symbol.id, right));
  if (merge == merges_.end()) return;
  scratch.heap.push_back({merge->second.rank, at, symbol.id, right, merge->second.merged});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), After());
}

void Bpe::EncodeLong(absl::string_view piece, Scratch& scratch, std::vector<uint32_t>& out) const {
  std::vector<Scratch::Symbol>& symbols = scratch.symbols;
  const uint32_t count = static_cast<uint32_t>(piece.size());
  symbols.clear();
  scratch.heap.clear();
  for (uint32_t i = 0; i < count; ++i) {
    symbols.push_back({byte_tokens_[static_cast<unsigned char>(piece[i])], i == 0 ? kNone : i - 1,
                       i + 1 == count ? kNone : i + 1});
  }
  for (uint32_t i = 0; i + 1 < count; ++i) Push(i, scratch);
  while (!scratch.heap.empty()) {
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), After());
    const Scratch::Candidate best = scratch.heap.back();
    scratch.heap.pop_back();
    // A candidate is stale when either symbol has been merged since. A symbol that is gone has
    // kNone for its id.
    Scratch::Symbol& left = symbols[best.at];
    if (left.id != best.left || left.next == kNone || symbols[left.next].id != best.right) continue;
    Scratch::Symbol& right = symbols[left.next];
    left.id = best.merged;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbols[left.next].prev = best.at;
    if (left.prev != kNone) Push(left.prev, scratch);
    Push(best.at, scratch);
  }
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) out.push_back(symbols[i].id);
}

}  // namespace whalepod
