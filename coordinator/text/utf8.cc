#include "coordinator/text/utf8.h"

#include <algorithm>

namespace whalepod {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// Whether `second` may follow `lead`: no overlong forms, surrogates or numbers above U+10FFFF.
bool Follows(unsigned char lead, unsigned char second) {
  switch (lead) {
    case 0xE0:
      return second >= 0xA0 && second <= 0xBF;
    case 0xED:
      return second >= 0x80 && second <= 0x9F;
    case 0xF0:
      return second >= 0x90 && second <= 0xBF;
    case 0xF4:
      return second >= 0x80 && second <= 0x8F;
    default:
      return second >= 0x80 && second <= 0xBF;
  }
}

// How many bytes at `at` are a character or the beginning of one; 0: none.
size_t GoodBytes(absl::string_view text, size_t at, size_t length) {
  if (length == 0) return 0;
  const unsigned char lead = text[at];
  size_t good = 1;
  while (good < length && at + good < text.size()) {
    const unsigned char next = text[at + good];
    if (good == 1 ? !Follows(lead, next) : (next & 0xC0) != 0x80) break;
    ++good;
  }
  return good;
}

size_t AsciiEnd(absl::string_view text, size_t at) {
  while (at < text.size() && static_cast<unsigned char>(text[at]) < 0x80) ++at;
  return at;
}

}  // namespace

int Utf8Length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

size_t FindInvalidUtf8(absl::string_view text) {
  size_t at = 0;
  while ((at = AsciiEnd(text, at)) < text.size()) {
    const size_t length = Utf8Length(text[at]);
    if (length == 0 || GoodBytes(text, at, length) < length) return at;
    at += length;
  }
  return absl::string_view::npos;
}

char32_t NextCodePoint(absl::string_view text, size_t& at) {
  const unsigned char lead = text[at];
  const int length = Utf8Length(lead);
  char32_t code = length == 1 ? lead : lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) code = code << 6 | (text[at + i] & 0x3F);
  at += length;
  return code;
}

void AppendCodePoint(char32_t code, std::string& out) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

void Utf8Assembler::Add(absl::string_view bytes, std::string& out) {
  if (held_.empty()) {
    const size_t ascii = AsciiEnd(bytes, 0);
    out.append(bytes.data(), ascii);
    bytes.remove_prefix(ascii);
    if (bytes.empty()) return;
  }
  held_.append(bytes.data(), bytes.size());
  size_t at = 0;
  while (at < held_.size()) {
    const size_t length = Utf8Length(held_[at]);
    const size_t good = GoodBytes(held_, at, length);
    if (length > 0 && good == length) {
      out.append(held_, at, length);
      at += length;
    } else if (length > 0 && at + good == held_.size()) {
      break;  // may yet become a character
    } else {
      out += kReplacement;
      at += std::max<size_t>(good, 1);
    }
  }
  held_.erase(0, at);
}

std::string Utf8Assembler::Add(absl::string_view bytes) {
  std::string out;
  Add(bytes, out);
  return out;
}

std::string Utf8Assembler::Finish() {
  if (held_.empty()) return "";
  held_.clear();
  return kReplacement;
}

}  // namespace whalepod
