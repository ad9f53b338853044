// A small byte-level BPE for tests: the 256 bytes are the ids 0 to 255, then what the test adds.
#pragma once

#include <string>
#include <vector>

#include "coordinator/text/utf8.h"
#include "nlohmann/json.hpp"

namespace whalepod {

inline std::string AlphabetOf(unsigned char byte) {
  char32_t code = 256;
  for (int b = 0; b <= byte; ++b) {
    const bool itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD);
    if (b == byte) {
      if (itself) code = byte;
    } else if (!itself) {
      ++code;
    }
  }
  std::string out;
  AppendCodePoint(code, out);
  return out;
}

// With the merges "t h" and "th e" (ids 256, 257), the added tokens <eos> (258, special), <think>
// and </think> (259, 260), splitting at white space.
inline nlohmann::json TestTokenizerJson() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[AlphabetOf(static_cast<unsigned char>(byte))] = byte;
  vocab["th"] = 256;
  vocab["the"] = 257;
  const auto added = [](int id, const char* content, bool special) {
    return nlohmann::json{{"id", id},          {"content", content}, {"single_word", false},
                          {"lstrip", false},   {"rstrip", false},    {"normalized", false},
                          {"special", special}};
  };
  const nlohmann::json split = {{"type", "Split"},
                                {"pattern", {{"Regex", "\\s+"}}},
                                {"behavior", "Isolated"},
                                {"invert", false}};
  const nlohmann::json byte_level = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h", "th e"}}}},
      {"added_tokens",
       {added(258, "<eos>", true), added(259, "<think>", false), added(260, "</think>", false)}},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, byte_level}}}},
      {"decoder", {{"type", "ByteLevel"}}}};
}

}  // namespace whalepod
