// Text that grows token by token.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "coordinator/text/tokenizer.h"
#include "coordinator/text/utf8.h"

namespace whalepod {

// What Add gives, call by call, and Finish at last, is together Tokenizer::Decode of all the ids:
// nothing is held back but the bytes of an unfinished character (three at most), nothing is taken
// back. O(bytes) a token. One for each sequence; not for several threads at once.
class Detokenizer {
 public:
  Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, SpecialTokens special)
      : tokenizer_(std::move(tokenizer)), special_(special) {}

  // Appends what `id` lets be shown. Ids without a token, such as those that pad a model's
  // vocabulary, add nothing.
  void Add(uint32_t id, std::string& out);
  // Appends what is left when no more tokens come: U+FFFD for an unfinished character. Ready for
  // another text.
  void Finish(std::string& out) { out += assembler_.Finish(); }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialTokens special_;
  Utf8Assembler assembler_;
};

}  // namespace whalepod
