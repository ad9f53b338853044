// Headers of safetensors files. Input: two bytes that say how much data follows the header, then
// the header's JSON.
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "coordinator/checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace {

using whalepod::SafetensorsEntry;

void CheckEntries(std::vector<SafetensorsEntry> entries, int64_t data, int64_t file_bytes) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t at = data;
  for (const SafetensorsEntry& entry : entries) {
    FUZZ_CHECK(entry.begin == at);
    FUZZ_CHECK(entry.end >= entry.begin);
    const auto dtype = whalepod::WeightDType(entry.dtype);
    if (dtype != whalepod::v1::DTYPE_UNSPECIFIED) {
      FUZZ_CHECK(whalepod::SafetensorsName(dtype) == entry.dtype);
    } else {
      FUZZ_CHECK(whalepod::SafetensorsName(dtype) == "?");
    }
    at = entry.end;
  }
  FUZZ_CHECK(at == file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(bytes), size);
  const auto header = whalepod::SafetensorsHeaderBytes(input.substr(0, 8), input.size(), "f");
  if (header.ok()) FUZZ_CHECK(*header >= 0 && *header + 8 <= static_cast<int64_t>(size));

  if (size < 2) return 0;
  const absl::string_view json = input.substr(2);
  const int64_t data = 8 + static_cast<int64_t>(json.size());
  const int64_t file_bytes = data + bytes[0] + 256 * bytes[1];
  auto entries = whalepod::ParseSafetensorsHeader(json, file_bytes, "f");
  if (entries.ok()) {
    CheckEntries(*std::move(entries), data, file_bytes);
  } else {
    FUZZ_CHECK(!entries.status().message().empty());
  }
  return 0;
}
