// What each token id adds to a text, from a checkpoint's tokenizer.json, and how a text grows from
// it without ever showing half a character.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/text/utf8.h"

namespace whalepod {

// Bytes of every id of a byte-level BPE vocabulary with its added tokens. Immutable.
class PieceTable {
 public:
  // NOT_FOUND, or INVALID_ARGUMENT naming the file and the key.
  static absl::StatusOr<PieceTable> Load(const std::string& path);
  // The same from the file's text; `where` is for messages.
  static absl::StatusOr<PieceTable> Parse(const std::string& json, const std::string& where);

  // The bytes `id` adds to the text: nothing for special tokens (end of sequence) and for ids that
  // no token has.
  const std::string& Piece(uint32_t id) const;
  int64_t size() const { return static_cast<int64_t>(pieces_.size()); }

 private:
  std::vector<std::string> pieces_;
};

// An answer in its two parts. Without "</think>" everything is text.
struct SplitAnswer {
  std::string reasoning;
  std::string text;
};
SplitAnswer SplitReasoning(const std::string& answer);

}  // namespace whalepod
