#include "coordinator/usage/prices.h"

#include "base/status.h"
#include "coordinator/checkpoint/file_io.h"
#include "coordinator/checkpoint/json_object.h"

namespace whalepod {
namespace {

// Of a file of prices.
constexpr int64_t kMostBytes = 64 << 10;
constexpr RealBounds kPrice = {.min = 0, .max = 1e6};

}  // namespace

absl::StatusOr<Prices> Prices::Parse(absl::string_view json, const std::string& where) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(json, where));
  JsonObject object(document, where);
  Prices prices;
  prices.cached_input = object.Real("cached_input", kPrice);
  prices.input = object.Real("input", kPrice);
  prices.output = object.Real("output", kPrice);
  RETURN_IF_ERROR(object.status());
  for (const auto& [key, value] : document.items()) {
    if (key == "cached_input" || key == "input" || key == "output") continue;
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": ", Quoted(key), ": unknown, expected cached_input, input and output"));
  }
  return prices;
}

absl::StatusOr<Prices> Prices::Read(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMostBytes));
  return Parse(text, path);
}

double Prices::Of(const v1::Usage& usage) const {
  const double cached = usage.cached_tokens();
  return (cached_input * cached + input * (usage.prompt_tokens() - cached) +
          output * usage.completion_tokens()) /
         1e6;
}

}  // namespace whalepod
