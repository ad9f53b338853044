// Typed, bounded access to the keys of one JSON object, with messages that name the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/checkpoint/json.h"

namespace whalepod {

struct IntBounds {
  int64_t min = 0;
  int64_t max = 0;
};

struct RealBounds {
  double min = 0;
  double max = 0;
  bool above_min = false;  // min itself is excluded
};

// The first error is kept and later reads give their defaults, so that a caller reads all keys in a
// row and asks for status() once. Does not own the JSON.
class JsonObject {
 public:
  // `where` names the document ("config.json"), `path` the object in it ("rope_scaling."), empty at
  // the top.
  JsonObject(const nlohmann::json& object, std::string where, std::string path = "");

  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  // False for a key that is absent or null.
  bool Has(const char* key) const;
  bool Present(const char* key) const { return object_.contains(key); }
  const nlohmann::json& Get(const char* key) const { return object_.at(key); }

  // Without a default the key must be there.
  int64_t Int(const char* key, IntBounds bounds, std::optional<int64_t> missing = std::nullopt);
  double Real(const char* key, RealBounds bounds, std::optional<double> missing = std::nullopt);
  bool Bool(const char* key, std::optional<bool> missing = std::nullopt);
  std::string String(const char* key, std::optional<std::string> missing = std::nullopt);
  // An integer or a list of integers.
  std::vector<int64_t> Ints(const char* key, IntBounds bounds);

  // Fails unless the key is absent, null or exactly `expected`.
  void Only(const char* key, const nlohmann::json& expected);

  // "<where>: <path><key>: <what>", unless there is an error already.
  void Fail(const std::string& key, const std::string& what);
  // Takes over the error of an object within this one.
  void Merge(const absl::Status& status) {
    if (status_.ok()) status_ = status;
  }

 private:
  // Null, or an error, when the key is not there.
  const nlohmann::json* Find(const char* key, bool required);
  bool CheckInt(const char* key, const nlohmann::json& value, IntBounds bounds);

  const nlohmann::json& object_;
  std::string where_;
  std::string path_;
  absl::Status status_;
};

}  // namespace whalepod
