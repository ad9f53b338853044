// model.safetensors.index.json.
#include <algorithm>
#include <cstdint>
#include <string>

#include "coordinator/checkpoint/index.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const auto index = whalepod::ParseCheckpointIndex(
      absl::string_view(reinterpret_cast<const char*>(bytes), size), "f");
  if (!index.ok()) return 0;
  FUZZ_CHECK(!index->tensors.empty());
  FUZZ_CHECK(std::is_sorted(index->files.begin(), index->files.end()));
  for (const std::string& file : index->files) {
    FUZZ_CHECK(file.find('/') == std::string::npos && file[0] != '.');
  }
  for (const auto& [name, file] : index->tensors) FUZZ_CHECK(file < index->files.size());
  return 0;
}
