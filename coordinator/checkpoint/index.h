// model.safetensors.index.json: which file holds which tensor.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace whalepod {

struct CheckpointIndex {
  std::vector<std::string> files;                     // ascending, each once
  std::unordered_map<std::string, uint32_t> tensors;  // name -> index into files
};

// INVALID_ARGUMENT, naming `file` and what was found, unless there is one weight_map from distinct
// names to names of files that lie in the folder itself. metadata.total_size is not used: R1's
// counts two bytes for every element.
absl::StatusOr<CheckpointIndex> ParseCheckpointIndex(absl::string_view json,
                                                     const std::string& file);

}  // namespace whalepod
