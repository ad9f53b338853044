// tokenizer.json, as Hugging Face's tokenizers writes it, read into what encoding needs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/text/bpe.h"
#include "coordinator/text/regex.h"

namespace whalepod {

struct TokenizerSpec {
  struct Token {
    std::string bytes;  // what it adds to a text
    bool exists = false;
    bool special = false;
  };
  struct Added {
    std::string content;
    uint32_t id = 0;
    bool normalized = false;  // looked for after normalisation, and normalised itself
  };

  std::vector<Token> tokens;  // by id
  std::vector<Added> added;   // in the order of their ids
  bool nfc = false;
  std::vector<Regex> splits;  // applied one after the other, each to the pieces the last one left
  Bpe bpe;                    // with a token for every byte that UTF-8 has
};

// Ids are below this.
constexpr uint32_t kMaxTokenIds = 1 << 22;

// A byte-level BPE. INVALID_ARGUMENT, without the file's name, names the key, what was expected and
// what was found: ids that are negative, huge or given twice; merges of or into unknown tokens;
// broken expressions; components that are not supported. Parts that change neither ids nor text are
// not looked at (truncation, padding, offsets, the templates of post-processors).
absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view text);

}  // namespace whalepod
