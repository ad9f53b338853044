// The alphabet in which byte-level vocabularies are written: each byte is one printable character,
// most of Latin-1 as itself, the other 68 bytes as U+0100, U+0101, ... in order.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace whalepod {

// The bytes that `text`, valid UTF-8, stands for; nothing if a character isn't in the alphabet.
std::optional<std::string> BytesOf(absl::string_view text);

}  // namespace whalepod
