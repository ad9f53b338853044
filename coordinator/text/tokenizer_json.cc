#include "coordinator/text/tokenizer_json.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/byte_alphabet.h"
#include "coordinator/text/text_json.h"

namespace whalepod {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxSplits = 16;
// What ByteLevel splits with where "use_regex" is true.
constexpr char kByteLevelRegex[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

absl::Status Bad(absl::string_view key, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": ", what));
}

absl::Status Unexpected(absl::string_view key, absl::string_view expected, const Json* found) {
  return Bad(key, absl::StrCat("expected ", expected, ", found ",
                               found == nullptr ? std::string("nothing") : JsonText(*found)));
}

// The string under "type" of a component.
absl::StatusOr<std::string> TypeOf(const Json& component, const std::string& key) {
  if (!component.is_object()) return Unexpected(key, "an object", &component);
  const Json* type = Member(component, "type");
  if (type == nullptr || !type->is_string()) return Unexpected(key + ".type", "a string", type);
  return type->get<std::string>();
}

absl::StatusOr<bool> Flag(const Json& object, const std::string& path, const char* key,
                          bool missing) {
  const Json* value = Member(object, key);
  if (value == nullptr) return missing;
  if (!value->is_boolean()) return Unexpected(absl::StrCat(path, ".", key), "true or false", value);
  return value->get<bool>();
}

// The members of a Sequence, or the component itself.
absl::StatusOr<std::vector<const Json*>> Members(const Json& component, const std::string& key,
                                                 const char* list_key) {
  std::vector<const Json*> members;
  ASSIGN_OR_RETURN(const std::string type, TypeOf(component, key));
  if (type != "Sequence") {
    members.push_back(&component);
    return members;
  }
  const Json* list = Member(component, list_key);
  if (list == nullptr || !list->is_array()) {
    return Unexpected(absl::StrCat(key, ".", list_key), "an array", list);
  }
  for (const Json& member : *list) members.push_back(&member);
  return members;
}

absl::StatusOr<uint32_t> IdOf(const Json& value, const std::string& key) {
  const bool integer = value.is_number_integer();
  if (!integer || (!value.is_number_unsigned() && value.get<int64_t>() < 0) ||
      value.get<uint64_t>() >= kMaxTokenIds) {
    return Unexpected(key, absl::StrCat("an id from 0 to ", kMaxTokenIds - 1), &value);
  }
  return value.get<uint32_t>();
}

class Reader {
 public:
  absl::StatusOr<TokenizerSpec> Read(const Json& json) {
    const Json* model = Member(json, "model");
    if (model == nullptr || !model->is_object()) return Unexpected("model", "an object", model);
    RETURN_IF_ERROR(CheckModel(*model));
    RETURN_IF_ERROR(ReadVocabulary(*model));
    RETURN_IF_ERROR(ReadMerges(*model));
    if (const Json* added = Member(json, "added_tokens")) RETURN_IF_ERROR(ReadAdded(*added));
    if (const Json* normalizer = Member(json, "normalizer")) {
      RETURN_IF_ERROR(ReadNormalizer(*normalizer));
    }
    const Json* pre_tokenizer = Member(json, "pre_tokenizer");
    if (pre_tokenizer == nullptr) return Bad("pre_tokenizer", "expected one with ByteLevel");
    RETURN_IF_ERROR(ReadPreTokenizer(*pre_tokenizer));
    const Json* decoder = Member(json, "decoder");
    if (decoder == nullptr) return Bad("decoder", "expected ByteLevel, found nothing");
    RETURN_IF_ERROR(CheckTypes(*decoder, "decoder", "decoders", {"ByteLevel"}));
    if (const Json* post = Member(json, "post_processor")) {
      RETURN_IF_ERROR(
          CheckTypes(*post, "post_processor", "processors", {"ByteLevel", "TemplateProcessing"}));
    }
    return std::move(spec_);
  }

 private:
  static absl::Status CheckTypes(const Json& component, const std::string& key,
                                 const char* list_key,
                                 std::initializer_list<absl::string_view> supported) {
    ASSIGN_OR_RETURN(const std::vector<const Json*> members, Members(component, key, list_key));
    for (const Json* member : members) {
      ASSIGN_OR_RETURN(const std::string type, TypeOf(*member, key));
      if (std::find(supported.begin(), supported.end(), type) == supported.end()) {
        return Bad(key, absl::StrCat("the type ", QuotedText(type), " is not supported"));
      }
    }
    return absl::OkStatus();
  }

  static absl::Status CheckModel(const Json& model) {
    ASSIGN_OR_RETURN(const std::string type, TypeOf(model, "model"));
    if (type != "BPE") {
      return Bad("model",
                 absl::StrCat("the type ", QuotedText(type), " is not supported, only BPE is"));
    }
    for (const char* key : {"dropout", "unk_token"}) {
      const Json* value = Member(model, key);
      if (value != nullptr && !(value->is_number() && value->get<double>() == 0)) {
        return Unexpected(absl::StrCat("model.", key), "null", value);
      }
    }
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Json* value = Member(model, key);
      if (value != nullptr && *value != "") {
        return Unexpected(absl::StrCat("model.", key), "null", value);
      }
    }
    ASSIGN_OR_RETURN(const bool fallback, Flag(model, "model", "byte_fallback", false));
    if (fallback) return Bad("model.byte_fallback", "true is not supported");
    return absl::OkStatus();
  }

  // Makes room for `id`, which must be free.
  absl::Status Take(uint32_t id, absl::string_view content, const std::string& key) {
    if (id >= spec_.tokens.size()) spec_.tokens.resize(id + 1);
    TokenizerSpec::Token& token = spec_.tokens[id];
    if (token.exists) {
      return Bad(key, absl::StrCat("the id ", id, " of ", QuotedText(content), " is also that of ",
                                   QuotedText(token.bytes)));
    }
    token.exists = true;
    return absl::OkStatus();
  }

  absl::Status ReadVocabulary(const Json& model) {
    const Json* vocab = Member(model, "vocab");
    if (vocab == nullptr || !vocab->is_object()) {
      return Unexpected("model.vocab", "an object", vocab);
    }
    ASSIGN_OR_RETURN(const bool ignore_merges, Flag(model, "model", "ignore_merges", false));
    ids_.reserve(vocab->size());
    spec_.bpe.Reserve(0, ignore_merges ? vocab->size() : 0);
    for (const auto& [content, value] : vocab->items()) {
      ASSIGN_OR_RETURN(const uint32_t id, IdOf(value, "model.vocab"));
      RETURN_IF_ERROR(Take(id, content, "model.vocab"));
      ids_[content] = id;
      const std::optional<std::string> bytes = BytesOf(content);
      spec_.tokens[id].bytes = bytes.value_or(content);
      if (!bytes.has_value()) continue;
      if (bytes->size() == 1) spec_.bpe.SetByte((*bytes)[0], id);
      if (ignore_merges && !bytes->empty()) spec_.bpe.AddWhole(*bytes, id);
    }
    return CheckBytes();
  }

  // Every byte that UTF-8 can have is a token.
  absl::Status CheckBytes() const {
    for (int byte = 0; byte < 256; ++byte) {
      const bool in_utf8 = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
      if (in_utf8 && spec_.bpe.byte_token(static_cast<unsigned char>(byte)) == Bpe::kNoToken) {
        return Bad("model.vocab",
                   absl::StrCat("no token for the byte 0x", absl::Hex(byte, absl::kZeroPad2)));
      }
    }
    return absl::OkStatus();
  }

  // The two sides of "a b" or ["a","b"].
  static absl::StatusOr<std::pair<std::string, std::string>> Sides(const Json& merge,
                                                                   const std::string& key) {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      return std::make_pair(merge[0].get<std::string>(), merge[1].get<std::string>());
    }
    if (merge.is_string()) {
      const std::string& text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        return std::make_pair(text.substr(0, space), text.substr(space + 1));
      }
    }
    return Unexpected(key, "two tokens", &merge);
  }

  absl::Status ReadMerges(const Json& model) {
    const Json* merges = Member(model, "merges");
    if (merges == nullptr || !merges->is_array()) {
      return Unexpected("model.merges", "an array", merges);
    }
    spec_.bpe.Reserve(merges->size(), 0);
    uint32_t rank = 0;
    for (const Json& merge : *merges) {
      const std::string key = absl::StrCat("model.merges[", rank, "]");
      ASSIGN_OR_RETURN(const auto sides, Sides(merge, key));
      uint32_t ids[3];
      const std::string tokens[3] = {sides.first, sides.second, sides.first + sides.second};
      for (int i = 0; i < 3; ++i) {
        const auto found = ids_.find(tokens[i]);
        if (found == ids_.end()) {
          return Bad(key, absl::StrCat(QuotedText(tokens[i]), " is not in model.vocab"));
        }
        ids[i] = found->second;
      }
      spec_.bpe.AddMerge(ids[0], ids[1], rank++, ids[2]);
    }
    return absl::OkStatus();
  }

  absl::Status ReadAdded(const Json& list) {
    if (!list.is_array()) return Unexpected("added_tokens", "an array", &list);
    absl::flat_hash_map<std::string, uint32_t> seen;
    for (const Json& token : list) {
      const std::string key = absl::StrCat("added_tokens[", seen.size(), "]");
      if (!token.is_object()) return Unexpected(key, "an object", &token);
      ASSIGN_OR_RETURN(TokenizerSpec::Added added, ReadAddedToken(token, key));
      if (!seen.emplace(added.content, added.id).second) {
        return Bad(key, absl::StrCat(QuotedText(added.content), " is there twice"));
      }
      spec_.added.push_back(std::move(added));
    }
    std::sort(spec_.added.begin(), spec_.added.end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    return absl::OkStatus();
  }

  absl::StatusOr<TokenizerSpec::Added> ReadAddedToken(const Json& token, const std::string& key) {
    const Json* content = Member(token, "content");
    if (content == nullptr || !content->is_string() || *content == "") {
      return Unexpected(key + ".content", "a string", content);
    }
    const Json* id_value = Member(token, "id");
    if (id_value == nullptr) return Unexpected(key + ".id", "a number", nullptr);
    TokenizerSpec::Added added{.content = content->get<std::string>()};
    ASSIGN_OR_RETURN(added.id, IdOf(*id_value, key + ".id"));
    for (const char* flag : {"single_word", "lstrip", "rstrip"}) {
      ASSIGN_OR_RETURN(const bool set, Flag(token, key, flag, false));
      if (set) return Bad(absl::StrCat(key, ".", flag), "true is not supported");
    }
    ASSIGN_OR_RETURN(const bool special, Flag(token, key, "special", false));
    ASSIGN_OR_RETURN(added.normalized, Flag(token, key, "normalized", !special));
    const auto in_vocab = ids_.find(added.content);
    if (in_vocab == ids_.end()) {
      RETURN_IF_ERROR(Take(added.id, added.content, key));
      spec_.tokens[added.id].bytes = BytesOf(added.content).value_or(added.content);
    } else if (in_vocab->second != added.id) {
      return Bad(key, absl::StrCat(QuotedText(added.content), " has the id ", added.id,
                                   ", and in model.vocab ", in_vocab->second));
    }
    spec_.tokens[added.id].special = special;
    return added;
  }

  absl::Status ReadNormalizer(const Json& normalizer) {
    RETURN_IF_ERROR(CheckTypes(normalizer, "normalizer", "normalizers", {"NFC"}));
    ASSIGN_OR_RETURN(const auto members, Members(normalizer, "normalizer", "normalizers"));
    spec_.nfc = !members.empty();
    return absl::OkStatus();
  }

  absl::Status ReadPreTokenizer(const Json& pre_tokenizer) {
    ASSIGN_OR_RETURN(const auto members, Members(pre_tokenizer, "pre_tokenizer", "pretokenizers"));
    bool byte_level = false;
    for (size_t i = 0; i < members.size(); ++i) {
      const Json* member = members[i];
      const std::string key = member == &pre_tokenizer
                                  ? std::string("pre_tokenizer")
                                  : absl::StrCat("pre_tokenizer.pretokenizers[", i, "]");
      ASSIGN_OR_RETURN(const std::string type, TypeOf(*member, key));
      if (byte_level) return Bad(key, "nothing is supported after ByteLevel");
      if (type == "Split") {
        RETURN_IF_ERROR(ReadSplit(*member, key));
      } else if (type == "ByteLevel") {
        RETURN_IF_ERROR(ReadByteLevel(*member, key));
        byte_level = true;
      } else {
        return Bad(key, absl::StrCat("the type ", QuotedText(type), " is not supported"));
      }
      if (spec_.splits.size() > kMaxSplits) return Bad(key, "too many expressions");
    }
    if (!byte_level) return Bad("pre_tokenizer", "expected ByteLevel at its end");
    return absl::OkStatus();
  }

  absl::Status ReadSplit(const Json& split, const std::string& key) {
    const Json* behavior = Member(split, "behavior");
    if (behavior == nullptr || *behavior != "Isolated") {
      return Unexpected(key + ".behavior", "\"Isolated\"", behavior);
    }
    const Json* pattern = Member(split, "pattern");
    if (pattern == nullptr || !pattern->is_object()) {
      return Unexpected(key + ".pattern", "an object", pattern);
    }
    const Json* expression = Member(*pattern, "Regex");
    const Json* literal = Member(*pattern, "String");
    const Json* text = expression != nullptr ? expression : literal;
    if (text == nullptr || !text->is_string()) {
      return Unexpected(key + ".pattern", "Regex or String", pattern);
    }
    absl::StatusOr<Regex> regex = expression != nullptr ? Regex::Compile(text->get<std::string>())
                                                        : Regex::Literal(text->get<std::string>());
    if (!regex.ok()) return Annotate(regex.status(), key);
    spec_.splits.push_back(*std::move(regex));
    return absl::OkStatus();
  }

  absl::Status ReadByteLevel(const Json& byte_level, const std::string& key) {
    ASSIGN_OR_RETURN(const bool prefix, Flag(byte_level, key, "add_prefix_space", true));
    if (prefix) return Bad(key + ".add_prefix_space", "true is not supported");
    ASSIGN_OR_RETURN(const bool use_regex, Flag(byte_level, key, "use_regex", true));
    if (!use_regex) return absl::OkStatus();
    ASSIGN_OR_RETURN(Regex regex, Regex::Compile(kByteLevelRegex));
    spec_.splits.push_back(std::move(regex));
    return absl::OkStatus();
  }

  TokenizerSpec spec_;
  absl::flat_hash_map<std::string, uint32_t> ids_;  // of model.vocab
};

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text));
  return Reader().Read(json);
}

}  // namespace whalepod
