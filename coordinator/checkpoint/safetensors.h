// The safetensors file format, strictly: a file is
//   [N: u64 little-endian][N bytes of JSON][the tensors' bytes, without holes, to the end]
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

constexpr int64_t kMaxSafetensorsHeader = 100'000'000;

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as written: "BF16"
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;  // from the start of the file
};

// The N of a file from its first 8 bytes (`prefix` may be shorter for a shorter file). DATA_LOSS
// when the file can't hold such a header.
absl::StatusOr<int64_t> SafetensorsHeaderBytes(absl::string_view prefix, int64_t file_bytes,
                                               const std::string& file);

// The tensors a header lists, in its order. `json` is the N bytes, `file` the name for messages.
// DATA_LOSS, naming file, tensor, expected and found, unless: the JSON is one object starting with
// '{' with distinct names; each entry has exactly dtype, shape and data_offsets; sizes do not
// overflow and equal the ranges; the ranges cover the buffer without hole or overlap.
absl::StatusOr<std::vector<SafetensorsEntry>> ParseSafetensorsHeader(absl::string_view json,
                                                                     int64_t file_bytes,
                                                                     const std::string& file);

// DTYPE_UNSPECIFIED for one that weights can't have here.
v1::DType WeightDType(absl::string_view safetensors_dtype);

// "F8_E4M3" and so on, as in files.
absl::string_view SafetensorsName(v1::DType dtype);

// "BF16 [129280, 7168]"
std::string ShapeText(absl::string_view dtype, const std::vector<int64_t>& shape);

}  // namespace whalepod
