// A checkpoint folder, read without its data: config, generation config, index and file headers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/checkpoint/generation_defaults.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct StoredTensor {
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;
  std::vector<int64_t> shape;
  uint32_t file = 0;   // index into Checkpoint::files
  int64_t offset = 0;  // of the first byte, from the start of the file
  int64_t bytes = 0;
};

struct Checkpoint {
  std::string dir;
  v1::ModelSpec model;  // eos/bos ids from generation_config where it has them
  GenerationDefaults defaults;
  std::vector<std::string> files;  // names within dir
  // All that the files hold, those of `skipped` included.
  std::map<std::string, StoredTensor> tensors;
  // Present in the files and not part of the main model: MTP layers, rotary buffers, the head of a
  // tied model. Ascending.
  std::vector<std::string> skipped;
  bool has_tokenizer = false;

  // Reads and checks a folder. Errors name the file, the tensor or key, what was expected and what
  // was found: NOT_FOUND (a file), INVALID_ARGUMENT (config, index), DATA_LOSS (a file that is
  // torn or lies). Every tensor of Inventory() is there with its shape and a readable dtype; every
  // FP8 weight has its scales.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir);

  // Reads all scale tensors and refuses NaN, infinite or negative ones by name and position.
  absl::Status CheckScales() const;
};

// A ModelSpec from the text of a Hugging Face config.json (deepseek_v3). INVALID_ARGUMENT names
// the key. `where` is the file's name for messages.
absl::StatusOr<v1::ModelSpec> ParseModelConfig(const std::string& json, const std::string& where);

}  // namespace whalepod
