#include "coordinator/text/pieces.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::json;

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD
// Ids come from a file: a larger one is a mistake and not a table to allocate.
constexpr int64_t kMaxId = 1 << 24;

absl::Status Bad(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

// Length of the UTF-8 character that begins with `lead`; 0: nothing begins so.
int CharacterLength(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

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

// Byte-level BPE writes each byte as a printable character: most of Latin-1 as itself, the other 68
// bytes as U+0100, U+0101, ... in order. The reverse of that table; -1: no byte.
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

// The bytes that a vocabulary entry stands for; nothing if it isn't in the byte alphabet. `text` is
// valid UTF-8, as the JSON parser checked.
std::optional<std::string> BytesOf(const std::string& text) {
  static const std::array<int, 512> kByteOfCodePoint = MakeByteOfCodePoint();
  std::string bytes;
  for (size_t i = 0; i < text.size();) {
    const unsigned char lead = text[i];
    const int length = CharacterLength(lead);
    if (length > 2 || length == 0) return std::nullopt;
    const int code = length == 1 ? lead : (lead & 0x1F) << 6 | (text[i + 1] & 0x3F);
    if (code >= 512 || kByteOfCodePoint[code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kByteOfCodePoint[code]));
    i += length;
  }
  return bytes;
}

absl::StatusOr<int64_t> IdOf(const Json& value, const std::string& where, const std::string& key) {
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kMaxId) {
    return Bad(where, absl::StrCat("the id of ", key, " is ", value.dump()));
  }
  return value.get<int64_t>();
}

}  // namespace

absl::StatusOr<PieceTable> PieceTable::Load(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat(path, " can't be opened"));
  std::stringstream text;
  text << in.rdbuf();
  return Parse(text.str(), path);
}

absl::StatusOr<PieceTable> PieceTable::Parse(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Bad(where, "not a JSON object");
  const Json model = json.value("model", Json());
  const Json vocab = model.is_object() ? model.value("vocab", Json()) : Json();
  if (!vocab.is_object()) return Bad(where, "model.vocab is not an object");
  PieceTable table;
  const auto put = [&table](int64_t id, std::string piece) {
    if (id >= table.size()) table.pieces_.resize(id + 1);
    table.pieces_[id] = std::move(piece);
  };
  for (const auto& [piece, value] : vocab.items()) {
    ASSIGN_OR_RETURN(const int64_t id, IdOf(value, where, "model.vocab"));
    put(id, BytesOf(piece).value_or(piece));
  }
  const Json added = json.value("added_tokens", Json::array());
  if (!added.is_array()) return Bad(where, "added_tokens is not an array");
  for (const Json& token : added) {
    if (!token.is_object() || !token.contains("id") || !token.contains("content") ||
        !token["content"].is_string()) {
      return Bad(where, "an added token without id and content");
    }
    ASSIGN_OR_RETURN(const int64_t id, IdOf(token["id"], where, "added_tokens"));
    const Json special = token.value("special", Json(false));
    put(id, special == Json(true) ? "" : token["content"].get<std::string>());
  }
  return table;
}

const std::string& PieceTable::Piece(uint32_t id) const {
  static const std::string kNone;
  return id < pieces_.size() ? pieces_[id] : kNone;
}

std::string Utf8Assembler::Add(const std::string& bytes) {
  held_ += bytes;
  std::string out;
  size_t at = 0;
  while (at < held_.size()) {
    const unsigned char lead = held_[at];
    const size_t length = CharacterLength(lead);
    size_t good = length == 0 ? 0 : 1;
    while (good > 0 && good < length && at + good < held_.size()) {
      const unsigned char next = held_[at + good];
      if (good == 1 ? !Follows(lead, next) : (next & 0xC0) != 0x80) break;
      ++good;
    }
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
  return out;
}

std::string Utf8Assembler::Finish() {
  if (held_.empty()) return "";
  held_.clear();
  return kReplacement;
}

SplitAnswer SplitReasoning(const std::string& answer) {
  static constexpr absl::string_view kBegin = "<think>";
  static constexpr absl::string_view kEnd = "</think>";
  const size_t end = answer.find(kEnd.data(), 0, kEnd.size());
  if (end == std::string::npos) return {.reasoning = "", .text = answer};
  absl::string_view reasoning = absl::string_view(answer).substr(0, end);
  absl::ConsumePrefix(&reasoning, kBegin);
  return {.reasoning = std::string(reasoning), .text = answer.substr(end + kEnd.size())};
}

}  // namespace whalepod
