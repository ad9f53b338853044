// Batch files, their uploads and items of jobs. Input: a first byte that chooses the form, then the
// text; of an upload its first line is the content type.
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/api/batch_format.h"
#include "coordinator/api/multipart.h"
#include "nlohmann/json.hpp"
#include "tests/fuzz/fuzz.h"

namespace {

void Batch(const std::string& text, const std::string& url) {
  const absl::StatusOr<std::vector<whalepod::NewItem>> items = whalepod::ParseBatch(text, url);
  if (!items.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(items.status()));
    return;
  }
  FUZZ_CHECK(!items->empty());
  FUZZ_CHECK(items->size() <= 1 + static_cast<size_t>(std::count(text.begin(), text.end(), '\n')));
  uint32_t last = 0;
  for (const whalepod::NewItem& item : *items) {
    FUZZ_CHECK(item.line > last);
    last = item.line;
    // What is accepted can be read again; what is not says why.
    FUZZ_CHECK(item.failed.has_value() || whalepod::ParseItem(item.kind, item.request).ok());
    whalepod::v1::JobItem ended;
    ended.set_custom_id(item.custom_id);
    if (item.failed) *ended.mutable_answer() = *item.failed;
    const std::string line = whalepod::BatchLine(whalepod::v1::Job(), ended);
    FUZZ_CHECK(nlohmann::json::accept(line));
    FUZZ_CHECK(std::count(line.begin(), line.end(), '\n') == 1);
  }
}

void Upload(const std::string& text) {
  const size_t end = text.find('\n');
  if (end == std::string::npos) return;
  const absl::StatusOr<std::vector<whalepod::FormPart>> parts =
      whalepod::ParseMultipart(text.substr(0, end), text.substr(end + 1));
  if (!parts.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(parts.status()));
    return;
  }
  size_t bytes = 0;
  for (const whalepod::FormPart& part : *parts) bytes += part.content.size();
  FUZZ_CHECK(bytes <= text.size());
}

// An item that is a GenerateRequest, as the store gives it back.
void Generate(const std::string& text) {
  const auto item = whalepod::ParseItem(whalepod::RequestKind::kGenerate, text);
  if (!item.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(item.status()));
    return;
  }
  FUZZ_CHECK(item->chat == item->generate.has_chat());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(bytes) + 1, size - 1);
  switch (bytes[0] % 4) {
    case 0:
      Batch(text, "");
      break;
    case 1:
      Upload(text);
      break;
    case 2:
      Batch(text, whalepod::kChatUrl);
      break;
    default:
      Generate(text);
  }
  return 0;
}
