// Strict JSON from outside the process: no duplicate keys, bounded depth, valid UTF-8, nothing
// after the value, no exceptions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace whalepod {

constexpr int kMaxJsonDepth = 32;

// Base of event handlers: keeps the first failure's message.
class StrictSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::string& error() const { return error_; }

  // JSON text has none.
  bool binary(binary_t&) override { return Fail("binary data"); }
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::json::exception& error) override;

 protected:
  bool Fail(std::string message);

 private:
  std::string error_;
};

// Feeds `text` to `sax`. A failure has code `code` and the message "<where>: <what>".
absl::Status ParseStrict(absl::string_view text, const std::string& where, absl::StatusCode code,
                         StrictSax& sax);

// A whole document as a tree. INVALID_ARGUMENT.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, const std::string& where);

// A string from outside for a message: in quotes, escaped, cut where long.
std::string Quoted(absl::string_view text);

// A value from outside for a message: its JSON text, cut where long.
std::string Shown(const nlohmann::json& value);

}  // namespace whalepod
