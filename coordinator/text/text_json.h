// JSON of a checkpoint's text files: strict, bounded, without exceptions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace whalepod {

// INVALID_ARGUMENT: not JSON, not valid UTF-8, a key twice in an object, nested deeper than 16, or
// not an object at the top.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text);

// The whole of a file; NOT_FOUND, or INVALID_ARGUMENT above 256 MiB. Messages don't name the file.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// The member `key` of an object; null if it is absent or null.
const nlohmann::json* Member(const nlohmann::json& object, absl::string_view key);

// Text from outside for a message: in quotes, escaped, cut where long.
std::string QuotedText(absl::string_view text);
// A value's JSON for a message, cut where long.
std::string JsonText(const nlohmann::json& value);

}  // namespace whalepod
