#include "coordinator/checkpoint/index.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/status.h"
#include "coordinator/checkpoint/json.h"

namespace whalepod {
namespace {

// Reads weight_map; what else is in the document is only checked for form.
class IndexSax : public StrictSax {
 public:
  std::map<std::string, uint32_t> file_ids;  // in order of appearance
  std::unordered_map<std::string, uint32_t> tensors;
  bool weight_map_seen = false;

  bool start_object(size_t) override {
    if (++depth_ > kMaxJsonDepth) return Fail(absl::StrCat("nested deeper than ", kMaxJsonDepth));
    if (depth_ == 2 && key_ == "weight_map") in_weight_map_ = true;
    return in_weight_map_ && depth_ > 2 ? FailTensor("an object") : true;
  }
  bool end_object() override {
    if (--depth_ == 1) in_weight_map_ = false;
    return true;
  }
  bool start_array(size_t) override {
    if (++depth_ > kMaxJsonDepth) return Fail(absl::StrCat("nested deeper than ", kMaxJsonDepth));
    return Value("an array", depth_ - 1);
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(std::string& value) override {
    if (depth_ == 1) {
      if (value == "weight_map" && std::exchange(weight_map_seen, true)) {
        return Fail("weight_map twice");
      }
      key_ = std::move(value);
    } else if (in_weight_map_) {
      tensor_ = std::move(value);
    }
    return true;
  }
  bool string(std::string& value) override {
    if (!in_weight_map_) return Scalar("a string");
    if (value.empty() || value[0] == '.' || value.find('/') != std::string::npos ||
        value.find('\0') != std::string::npos || !absl::EndsWith(value, ".safetensors")) {
      return Fail(absl::StrCat("tensor ", Quoted(tensor_), ": file ", Quoted(value),
                               ", expected the name of a .safetensors file in the same folder"));
    }
    const uint32_t id =
        file_ids.try_emplace(std::move(value), static_cast<uint32_t>(file_ids.size()))
            .first->second;
    if (!tensors.try_emplace(std::move(tensor_), id).second) {
      return Fail(absl::StrCat("weight_map: tensor ", Quoted(tensor_), " twice"));
    }
    return true;
  }
  bool null() override { return Scalar("null"); }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_integer(int64_t) override { return Scalar("a number"); }
  bool number_unsigned(uint64_t) override { return Scalar("a number"); }
  bool number_float(double, const std::string&) override { return Scalar("a number"); }

 private:
  bool Scalar(const char* what) { return Value(what, depth_); }
  // A value other than an object, in a container at `depth` (0: none).
  bool Value(const char* what, int depth) {
    if (in_weight_map_) return FailTensor(what);
    if (depth == 0) return Fail(absl::StrCat(what, ", expected an object"));
    if (depth == 1 && key_ == "weight_map") {
      return Fail(absl::StrCat("weight_map: ", what, ", expected an object"));
    }
    return true;
  }
  bool FailTensor(const char* what) {
    return Fail(
        absl::StrCat("tensor ", Quoted(tensor_), ": ", what, ", expected the name of a file"));
  }

  int depth_ = 0;
  bool in_weight_map_ = false;
  std::string key_;     // of the outer object
  std::string tensor_;  // of weight_map
};

}  // namespace

absl::StatusOr<CheckpointIndex> ParseCheckpointIndex(absl::string_view json,
                                                     const std::string& file) {
  IndexSax sax;
  RETURN_IF_ERROR(ParseStrict(json, file, absl::StatusCode::kInvalidArgument, sax));
  if (!sax.weight_map_seen)
    return absl::InvalidArgumentError(absl::StrCat(file, ": no weight_map"));
  if (sax.tensors.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": weight_map is empty"));
  }
  CheckpointIndex index;
  std::vector<uint32_t> sorted_id(sax.file_ids.size());
  for (const auto& [name, id] : sax.file_ids) {
    sorted_id[id] = static_cast<uint32_t>(index.files.size());
    index.files.push_back(name);
  }
  index.tensors = std::move(sax.tensors);
  for (auto& [name, id] : index.tensors) id = sorted_id[id];
  return index;
}

}  // namespace whalepod
