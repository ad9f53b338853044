#include "coordinator/cli/prompts.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "coordinator/text/text_json.h"
#include "coordinator/text/utf8.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::json;

absl::Status Expected(const std::string& key, const char* what, const Json& found) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", key, "\" is not ", what, ": ", JsonText(found)));
}

absl::Status FillIds(const Json& ids, v1::TokenIds* out) {
  if (!ids.is_array()) return Expected("prompt_token_ids", "an array", ids);
  for (const Json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", id.dump()));
    }
    out->add_ids(id.get<uint32_t>());
  }
  return absl::OkStatus();
}

// {"type": "function", "function": {"name": .., "arguments": ".."}}
absl::Status FillToolCall(const Json& json, const std::string& where, v1::ToolCall* call) {
  const Json function = json.is_object() ? json.value("function", Json()) : Json();
  if (!function.is_object()) return Expected(where + ".function", "an object", function);
  const std::pair<const char*, std::string*> strings[] = {{"name", call->mutable_name()},
                                                          {"arguments", call->mutable_arguments()}};
  for (const auto& [key, out] : strings) {
    const Json value = function.value(key, Json());
    if (!value.is_string()) return Expected(absl::StrCat(where, ".", key), "a string", value);
    *out = value.get<std::string>();
  }
  const Json type = json.value("type", Json("function"));
  if (!type.is_string()) return Expected(where + ".type", "a string", type);
  call->set_type(type.get<std::string>());
  return absl::OkStatus();
}

absl::Status FillMessage(const Json& json, const std::string& where, v1::ChatMessage* message) {
  if (!json.is_object()) return Expected(where, "an object", json);
  const Json role = json.value("role", Json());
  if (!role.is_string()) return Expected(where + ".role", "a string", role);
  message->set_role(role.get<std::string>());
  const Json content = json.value("content", Json());
  if (content.is_string()) {
    message->set_content(content.get<std::string>());
  } else if (!content.is_null()) {
    return Expected(where + ".content", "a string", content);
  }
  const Json calls = json.value("tool_calls", Json::array());
  if (!calls.is_array()) return Expected(where + ".tool_calls", "an array", calls);
  for (size_t i = 0; i < calls.size(); ++i) {
    RETURN_IF_ERROR(FillToolCall(calls[i], absl::StrCat(where, ".tool_calls[", i, "]"),
                                 message->add_tool_calls()));
  }
  return absl::OkStatus();
}

absl::Status FillChat(const Json& messages, v1::Chat* chat) {
  if (!messages.is_array()) return Expected("messages", "an array", messages);
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(
        FillMessage(messages[i], absl::StrCat("messages[", i, "]"), chat->add_messages()));
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::GenerateRequest> RequestOf(const std::string& line) {
  ASSIGN_OR_RETURN(const Json json, ParseJsonObject(line));
  v1::GenerateRequest request;
  int prompts = 0;
  if (json.contains("prompt_token_ids")) {
    ++prompts;
    RETURN_IF_ERROR(FillIds(json["prompt_token_ids"], request.mutable_token_ids()));
  }
  if (json.contains("prompt")) {
    ++prompts;
    if (!json["prompt"].is_string()) return Expected("prompt", "a string", json["prompt"]);
    request.set_text(json["prompt"].get<std::string>());
  }
  if (json.contains("messages")) {
    ++prompts;
    RETURN_IF_ERROR(FillChat(json["messages"], request.mutable_chat()));
  }
  if (prompts != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        prompts, " of \"messages\", \"prompt\" and \"prompt_token_ids\", expected one"));
  }
  return request;
}

}  // namespace

absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text) {
  std::vector<uint32_t> ids;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    uint32_t id = 0;
    if (!absl::SimpleAtoi(item, &id)) {
      return absl::InvalidArgumentError(absl::StrCat("token id \"", item, "\" in \"", text, "\""));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<std::vector<v1::GenerateRequest>> ReadPrompts(std::istream& in,
                                                             const std::string& name) {
  std::vector<v1::GenerateRequest> requests;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<v1::GenerateRequest> request = RequestOf(line);
    if (!request.ok()) return Annotate(request.status(), absl::StrCat(name, ":", number));
    requests.push_back(*std::move(request));
  }
  if (in.bad() || !in.eof()) return absl::DataLossError(absl::StrCat(name, " can't be read"));
  if (requests.empty()) return absl::InvalidArgumentError(absl::StrCat(name, " has no prompt"));
  return requests;
}

absl::Status CheckUtf8(absl::string_view text) {
  const size_t at = FindInvalidUtf8(text);
  if (at == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("not UTF-8 at byte ", at));
}

}  // namespace whalepod
