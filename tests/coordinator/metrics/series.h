// The value of one series in Prometheus' text.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace whalepod {

// `series` as it is written: `name{label="value"}`. None if it is not there.
inline std::optional<double> Value(const std::string& text, const std::string& series) {
  const std::string line = absl::StrCat("\n", series, " ");
  const size_t at = absl::StrCat("\n", text).find(line);
  if (at == std::string::npos) return std::nullopt;
  const size_t begin = at + line.size() - 1;
  double value = 0;
  if (!absl::SimpleAtod(text.substr(begin, text.find('\n', begin) - begin), &value)) {
    return std::nullopt;
  }
  return value;
}

}  // namespace whalepod
