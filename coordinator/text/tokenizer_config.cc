#include "coordinator/text/tokenizer_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/text_json.h"
#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

using Json = nlohmann::json;

absl::Status Unexpected(absl::string_view key, absl::string_view expected, const Json& found) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": expected ", expected, ", found ", JsonText(found)));
}

absl::StatusOr<std::optional<std::string>> ReadToken(const Json& json, const char* key) {
  const Json* value = Member(json, key);
  if (value == nullptr) return std::nullopt;
  const Json* content = value->is_object() ? Member(*value, "content") : value;
  if (content == nullptr || !content->is_string() || *content == "") {
    return Unexpected(key, "a string or an object with a content", *value);
  }
  return content->get<std::string>();
}

absl::StatusOr<std::optional<std::string>> ReadTemplate(const Json& json) {
  const Json* value = Member(json, "chat_template");
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) return Unexpected("chat_template", "a string or a list", *value);
  for (const Json& named : *value) {
    if (!named.is_object()) return Unexpected("chat_template", "a list of objects", named);
    const Json* name = Member(named, "name");
    const Json* text = Member(named, "template");
    if (name == nullptr || text == nullptr || !name->is_string() || !text->is_string()) {
      return Unexpected("chat_template", "a list of names and templates", named);
    }
    if (*name == "default") return text->get<std::string>();
  }
  return Unexpected("chat_template", "a template with the name \"default\"", *value);
}

}  // namespace

absl::StatusOr<TokenizerConfig> ParseTokenizerConfig(absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text));
  TokenizerConfig config;
  ASSIGN_OR_RETURN(config.bos_token, ReadToken(json, "bos_token"));
  ASSIGN_OR_RETURN(config.eos_token, ReadToken(json, "eos_token"));
  ASSIGN_OR_RETURN(config.pad_token, ReadToken(json, "pad_token"));
  if (const Json* add = Member(json, "add_bos_token")) {
    if (!add->is_boolean()) return Unexpected("add_bos_token", "true or false", *add);
    config.add_bos_token = add->get<bool>();
  }
  ASSIGN_OR_RETURN(config.chat_template, ReadTemplate(json));
  return config;
}

absl::StatusOr<TokenizerConfig> LoadTokenizerConfig(const std::string& folder) {
  const std::string path = folder + "/tokenizer_config.json";
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  if (!text.ok()) return Annotate(text.status(), path);
  absl::StatusOr<TokenizerConfig> config = ParseTokenizerConfig(*text);
  if (!config.ok()) return Annotate(config.status(), path);
  const std::string template_path = folder + "/chat_template.jinja";
  absl::StatusOr<std::string> jinja = ReadTextFile(template_path);
  if (jinja.ok()) {
    if (FindInvalidUtf8(*jinja) != absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat(template_path, ": it is not valid UTF-8"));
    }
    config->chat_template = *std::move(jinja);
  } else if (!absl::IsNotFound(jinja.status())) {
    return Annotate(jinja.status(), template_path);
  }
  return config;
}

}  // namespace whalepod
