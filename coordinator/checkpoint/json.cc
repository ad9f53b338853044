#include "coordinator/checkpoint/json.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/compact_json.h"

namespace whalepod {
namespace {

constexpr size_t kMaxShown = 200;

std::string Cut(std::string text) {
  if (text.size() <= kMaxShown) return text;
  size_t end = kMaxShown;
  // Not inside a UTF-8 sequence.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  text.resize(end);
  return text + "...";
}

// Builds a tree and refuses duplicate keys and deep nesting.
class TreeSax : public StrictSax {
 public:
  nlohmann::json Take() { return std::move(root_); }

  bool null() override { return Put(nullptr); }
  bool boolean(bool value) override { return Put(value); }
  bool number_integer(int64_t value) override { return Put(value); }
  bool number_unsigned(uint64_t value) override { return Put(value); }
  bool number_float(double value, const std::string&) override { return Put(value); }
  bool string(std::string& value) override { return Put(std::move(value)); }
  bool start_object(size_t) override { return Open(nlohmann::json::object()); }
  bool start_array(size_t) override { return Open(nlohmann::json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& value) override {
    if (open_.back()->contains(value)) return Fail(absl::StrCat("key ", Quoted(value), " twice"));
    key_ = std::move(value);
    return true;
  }

 private:
  nlohmann::json* Place(nlohmann::json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    nlohmann::json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool Put(nlohmann::json value) {
    Place(std::move(value));
    return true;
  }
  bool Open(nlohmann::json value) {
    if (open_.size() >= kMaxJsonDepth) {
      return Fail(absl::StrCat("nested deeper than ", kMaxJsonDepth));
    }
    open_.push_back(Place(std::move(value)));
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  nlohmann::json root_;
  std::vector<nlohmann::json*> open_;
  std::string key_;
};

}  // namespace

bool StrictSax::parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
  return Fail(absl::StrCat("not valid JSON at byte ", position));
}

bool StrictSax::Fail(std::string message) {
  if (error_.empty()) error_ = std::move(message);
  return false;
}

absl::Status ParseStrict(absl::string_view text, const std::string& where, absl::StatusCode code,
                         StrictSax& sax) {
  // The lexer takes a zero byte for the end of its input, whatever follows, and skips a byte order
  // mark.
  if (const size_t zero = text.find('\0'); zero != absl::string_view::npos) {
    return absl::Status(code, absl::StrCat(where, ": a zero byte at byte ", zero));
  }
  if (text.substr(0, 1) == "\xef") {
    return absl::Status(code, absl::StrCat(where, ": not valid JSON at byte 1"));
  }
  if (nlohmann::json::sax_parse(text.begin(), text.end(), &sax)) return absl::OkStatus();
  return absl::Status(code, absl::StrCat(where, ": ", sax.error()));
}

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, const std::string& where) {
  TreeSax sax;
  if (absl::Status status = ParseStrict(text, where, absl::StatusCode::kInvalidArgument, sax);
      !status.ok()) {
    return status;
  }
  return sax.Take();
}

std::string Quoted(absl::string_view text) {
  return absl::StrCat("\"", Cut(absl::Utf8SafeCEscape(text)), "\"");
}

std::string Shown(const nlohmann::json& value) { return Cut(CompactJson(value)); }

}  // namespace whalepod
