// UTF-8 from outside the process: checked where it enters, and never shown by halves.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace whalepod {

// Bytes of the UTF-8 character that begins with `lead`, 1 to 4; 0: nothing begins so.
int Utf8Length(unsigned char lead);

// Where the first byte is that can't be part of UTF-8 (overlong forms, surrogates and numbers above
// U+10FFFF are none); npos for valid text.
size_t FindInvalidUtf8(absl::string_view text);

// The code point at `text[at]`, which must begin a valid character; `at` is moved behind it.
char32_t NextCodePoint(absl::string_view text, size_t& at);
void AppendCodePoint(char32_t code, std::string& out);

// Passes bytes on as soon as they make whole characters; a piece may end inside one. What can't be
// UTF-8 comes out as U+FFFD, one for each maximal beginning of a character, as in Unicode's
// chapter 3.9 and Rust's from_utf8_lossy. Linear in the bytes passed.
class Utf8Assembler {
 public:
  // Appends what can be shown now.
  void Add(absl::string_view bytes, std::string& out);
  std::string Add(absl::string_view bytes);
  // What is left at the end: an unfinished character comes out as U+FFFD. Ready for another text.
  std::string Finish();

 private:
  std::string held_;  // the beginning of a character, at most three bytes between calls
};

}  // namespace whalepod
