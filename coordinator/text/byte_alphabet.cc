#include "coordinator/text/byte_alphabet.h"

#include <array>

#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

// -1: the code point is no byte.
std::array<int, 512> MakeByteOfCodePoint() {
  std::array<int, 512> bytes;
  bytes.fill(-1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    bytes[itself ? byte : next++] = byte;
  }
  return bytes;
}

}  // namespace

std::optional<std::string> BytesOf(absl::string_view text) {
  static const std::array<int, 512> kByteOfCodePoint = MakeByteOfCodePoint();
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const char32_t code = NextCodePoint(text, at);
    if (code >= kByteOfCodePoint.size() || kByteOfCodePoint[code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kByteOfCodePoint[code]));
  }
  return bytes;
}

}  // namespace whalepod
