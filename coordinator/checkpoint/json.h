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

// Base of event handlers. Every event fails until a handler says otherwise; the first failure's
// message is kept.
class StrictSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::string& error() const { return error_; }

  bool null() override { return Fail("a null where none is allowed"); }
  bool boolean(bool value) override { return Fail("a boolean where none is allowed"); }
  bool number_integer(int64_t value) override;
  bool number_unsigned(uint64_t value) override;
  bool number_float(double value, const std::string& text) override;
  bool string(std::string& value) override;
  bool binary(binary_t& value) override { return Fail("binary data"); }
  bool start_object(size_t) override { return Fail("an object where none is allowed"); }
  bool end_object() override { return true; }
  bool start_array(size_t) override { return Fail("an array where none is allowed"); }
  bool end_array() override { return true; }
  bool key(std::string& value) override { return Fail("a key where none is allowed"); }
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
