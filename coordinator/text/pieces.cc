#include "coordinator/text/pieces.h"

#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "coordinator/text/byte_alphabet.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::json;

// Ids come from a file: a larger one is a mistake and not a table to allocate.
constexpr int64_t kMaxId = 1 << 24;

absl::Status Bad(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
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
