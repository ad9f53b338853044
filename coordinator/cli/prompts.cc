#include "coordinator/cli/prompts.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::vector<uint32_t>> PromptOf(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  for (const char* key : {"messages", "prompt"}) {
    if (!json.contains(key)) continue;
    return absl::FailedPreconditionError(
        absl::StrCat("\"", key, "\" can't be encoded yet: give \"prompt_token_ids\""));
  }
  for (const auto& item : json.items()) {
    if (item.key() != "prompt_token_ids") {
      return absl::InvalidArgumentError(absl::StrCat("unknown key \"", item.key(), "\""));
    }
  }
  const Json ids = json.value("prompt_token_ids", Json());
  if (!ids.is_array()) {
    return absl::InvalidArgumentError("\"prompt_token_ids\" is not an array");
  }
  std::vector<uint32_t> prompt;
  for (const Json& id : ids) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > UINT32_MAX) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", id.dump()));
    }
    prompt.push_back(id.get<uint32_t>());
  }
  return prompt;
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

absl::StatusOr<std::vector<std::vector<uint32_t>>> ReadPrompts(std::istream& in,
                                                               const std::string& name) {
  std::vector<std::vector<uint32_t>> prompts;
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    absl::StatusOr<std::vector<uint32_t>> prompt = PromptOf(line);
    if (!prompt.ok()) return Annotate(prompt.status(), absl::StrCat(name, ":", number));
    prompts.push_back(*std::move(prompt));
  }
  return prompts;
}

}  // namespace whalepod
