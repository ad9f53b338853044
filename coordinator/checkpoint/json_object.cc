#include "coordinator/checkpoint/json_object.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace whalepod {

JsonObject::JsonObject(const nlohmann::json& object, std::string where, std::string path)
    : object_(object), where_(std::move(where)), path_(std::move(path)) {
  if (object.is_object()) return;
  const std::string name =
      path_.empty() ? std::string() : absl::StrCat(path_.substr(0, path_.size() - 1), ": ");
  status_ = absl::InvalidArgumentError(
      absl::StrCat(where_, ": ", name, "expected an object, found ", Shown(object)));
}

bool JsonObject::Has(const char* key) const {
  return object_.is_object() && object_.contains(key) && !object_.at(key).is_null();
}

const nlohmann::json* JsonObject::Find(const char* key, bool required) {
  if (!ok()) return nullptr;
  if (Has(key)) return &object_.at(key);
  if (required) Fail(key, Present(key) ? "expected a value, found null" : "missing");
  return nullptr;
}

void JsonObject::Fail(const std::string& key, const std::string& what) {
  Merge(absl::InvalidArgumentError(absl::StrCat(where_, ": ", path_, key, ": ", what)));
}

bool JsonObject::CheckInt(const char* key, const nlohmann::json& value, IntBounds bounds) {
  const bool fits = value.is_number_integer() &&
                    !(value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX);
  if (fits && value.get<int64_t>() >= bounds.min && value.get<int64_t>() <= bounds.max) return true;
  Fail(key, absl::StrCat("expected an integer from ", bounds.min, " to ", bounds.max, ", found ",
                         Shown(value)));
  return false;
}

int64_t JsonObject::Int(const char* key, IntBounds bounds, std::optional<int64_t> missing) {
  const nlohmann::json* value = Find(key, !missing.has_value());
  if (value == nullptr || !CheckInt(key, *value, bounds)) return missing.value_or(bounds.min);
  return value->get<int64_t>();
}

double JsonObject::Real(const char* key, RealBounds bounds, std::optional<double> missing) {
  const nlohmann::json* value = Find(key, !missing.has_value());
  const double fallback = missing.value_or(bounds.min);
  if (value == nullptr) return fallback;
  if (value->is_number()) {
    const double number = value->get<double>();
    if (std::isfinite(number) && number <= bounds.max &&
        (bounds.above_min ? number > bounds.min : number >= bounds.min)) {
      return number;
    }
  }
  Fail(key, absl::StrCat("expected a number ", bounds.above_min ? "above " : "from ", bounds.min,
                         bounds.above_min ? " and up to " : " to ", bounds.max, ", found ",
                         Shown(*value)));
  return fallback;
}

bool JsonObject::Bool(const char* key, std::optional<bool> missing) {
  const nlohmann::json* value = Find(key, !missing.has_value());
  if (value == nullptr) return missing.value_or(false);
  if (value->is_boolean()) return value->get<bool>();
  Fail(key, absl::StrCat("expected true or false, found ", Shown(*value)));
  return missing.value_or(false);
}

std::string JsonObject::String(const char* key, std::optional<std::string> missing) {
  const nlohmann::json* value = Find(key, !missing.has_value());
  if (value == nullptr) return missing.value_or("");
  if (value->is_string()) return value->get<std::string>();
  Fail(key, absl::StrCat("expected a string, found ", Shown(*value)));
  return missing.value_or("");
}

std::vector<int64_t> JsonObject::Ints(const char* key, IntBounds bounds) {
  const nlohmann::json* value = Find(key, /*required=*/true);
  std::vector<int64_t> ints;
  if (value == nullptr) return ints;
  if (!value->is_array()) {
    if (CheckInt(key, *value, bounds)) ints.push_back(value->get<int64_t>());
    return ints;
  }
  for (const nlohmann::json& element : *value) {
    if (!CheckInt(key, element, bounds)) return {};
    ints.push_back(element.get<int64_t>());
  }
  return ints;
}

void JsonObject::Only(const char* key, const nlohmann::json& expected) {
  const nlohmann::json* value = Find(key, /*required=*/false);
  if (value == nullptr || *value == expected) return;
  Fail(key, absl::StrCat("expected ", Shown(expected), ", found ", Shown(*value)));
}

}  // namespace whalepod
