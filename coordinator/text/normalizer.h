// Unicode normalisation form C.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace whalepod {

// Whether `text`, valid UTF-8, is known to be in form C at a glance: no code point above U+02FF.
bool IsPlainlyNfc(absl::string_view text);

// `text`, which must be valid UTF-8, in form C as Hugging Face's tokenizers makes it: by Unicode 9.
// Code points of later versions that would move or compose stay where they are, and nothing moves
// across them. Takes O(n log n), also for long runs of combining marks, on which utf8proc alone is
// quadratic.
std::string Nfc(absl::string_view text);

}  // namespace whalepod
