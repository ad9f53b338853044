#include "coordinator/text/text_json.h"

#include <fstream>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/compact_json.h"

namespace whalepod {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 16;
constexpr std::streamoff kMaxFileBytes = 256 << 20;
constexpr size_t kMaxShown = 200;

std::string Cut(std::string text) {
  if (text.size() <= kMaxShown) return text;
  size_t end = kMaxShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  return text + "...";
}

// Watches a document being parsed; remembers the first thing that is wrong.
class Watch {
 public:
  const std::string& error() const { return error_; }

  // As nlohmann's parser callback; false leaves the value out.
  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    if (depth >= kMaxDepth) Fail(absl::StrCat("nested deeper than ", kMaxDepth));
    if (event == Json::parse_event_t::object_start) {
      keys_.resize(std::max<size_t>(keys_.size(), depth + 2));
      keys_[depth + 1].clear();
    } else if (event == Json::parse_event_t::key) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!keys_[depth].insert(key).second)
        Fail(absl::StrCat("the key ", QuotedText(key), " twice"));
    }
    return error_.empty();
  }

 private:
  void Fail(std::string error) {
    if (error_.empty()) error_ = std::move(error);
  }

  std::vector<absl::flat_hash_set<std::string>> keys_;  // of the open object at each depth
  std::string error_;
};

}  // namespace

absl::StatusOr<Json> ParseJsonObject(absl::string_view text) {
  // The parser takes a zero byte for the end, whatever follows.
  if (const size_t zero = text.find('\0'); zero != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("a zero byte at byte ", zero));
  }
  Watch watch;
  const Json json = Json::parse(
      text.begin(), text.end(),
      [&watch](int depth, Json::parse_event_t event, Json& parsed) {
        return watch(depth, event, parsed);
      },
      /*allow_exceptions=*/false);
  if (!watch.error().empty()) return absl::InvalidArgumentError(watch.error());
  if (json.is_discarded()) return absl::InvalidArgumentError("not valid JSON");
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a JSON object, found ", JsonText(json)));
  }
  return json;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  if (!in) return absl::NotFoundError("it can't be opened");
  const std::streamoff size = in.tellg();
  if (size < 0) return absl::NotFoundError("it can't be read");
  if (size > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("it has ", size, " bytes, more than ", kMaxFileBytes));
  }
  std::string text(static_cast<size_t>(size), '\0');
  in.seekg(0);
  if (!in.read(text.data(), size)) return absl::NotFoundError("it can't be read");
  return text;
}

const Json* Member(const Json& object, absl::string_view key) {
  const auto found = object.find(std::string(key));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string QuotedText(absl::string_view text) {
  return absl::StrCat("\"", Cut(absl::Utf8SafeCEscape(text)), "\"");
}

std::string JsonText(const Json& value) { return Cut(CompactJson(value)); }

}  // namespace whalepod
