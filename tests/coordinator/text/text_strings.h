// Random strings and conversations from a seed: the same ones as tests/golden/text_strings.py
// makes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/text/chat_template.h"

namespace whalepod {

// Many scripts, emoji, digits, code, spaces, control characters, marks in any order, long runs,
// names of control tokens, any code point of Unicode 14.
std::string MakeString(uint64_t seed);

// One to six messages; with an even seed none has a control token that would be kept.
std::vector<ChatMessage> MakeChat(uint64_t seed, bool tools);

// As zlib's.
uint32_t Crc32(absl::string_view bytes, uint32_t crc = 0);

}  // namespace whalepod
