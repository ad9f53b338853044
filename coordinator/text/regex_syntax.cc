#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/regex.h"

namespace whalepod {
namespace {

// Code points with the property White_Space, for within a class. PCRE2's own \s has U+180E besides.
constexpr char kWhiteSpace[] = R"(\x{09}-\x{0D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A})"
                               R"(\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

bool IsAsciiPunctuation(char c) {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
         (c >= 0x7B && c <= 0x7E);
}

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) {
      RETURN_IF_ERROR(in_class_ ? InClass() : Outside());
    }
    if (in_class_) return Unsupported("a class that doesn't end");
    return std::move(out_);
  }

 private:
  absl::Status Unsupported(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("at byte ", at_, ": ", what, " is not supported in a regular expression"));
  }

  bool At(absl::string_view text) const { return pattern_.substr(at_, text.size()) == text; }

  void Copy(size_t count) {
    absl::StrAppend(&out_, pattern_.substr(at_, count));
    at_ += count;
  }

  void Replace(size_t count, absl::string_view with) {
    absl::StrAppend(&out_, with);
    at_ += count;
  }

  absl::Status Outside() {
    switch (pattern_[at_]) {
      case '\\':
        return Escape();
      case '[':
        return OpenClass();
      case '(':
        return Group();
      case '^':
      case '$':
        return Unsupported(absl::StrCat("the anchor ", pattern_.substr(at_, 1)));
      case '}':
        Copy(1);
        if (At("+")) return Unsupported("+ after {}");
        return absl::OkStatus();
      default:
        Copy(1);
        return absl::OkStatus();
    }
  }

  absl::Status OpenClass() {
    in_class_ = true;
    Copy(1);
    if (At("^")) Copy(1);
    if (At("]")) return Unsupported("] first in a class");
    return absl::OkStatus();
  }

  absl::Status InClass() {
    switch (pattern_[at_]) {
      case '\\':
        return Escape();
      case '[':
        return Unsupported("a class within a class");
      case '&':
        if (At("&&")) return Unsupported("&& in a class");
        Copy(1);
        return absl::OkStatus();
      case ']':
        in_class_ = false;
        Copy(1);
        return absl::OkStatus();
      default:
        Copy(1);
        return absl::OkStatus();
    }
  }

  absl::Status Group() {
    for (const absl::string_view known : {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"}) {
      if (!At(known)) continue;
      Copy(known.size());
      return absl::OkStatus();
    }
    if (At("(?") || At("(*")) {
      return Unsupported(absl::StrCat("the group ", pattern_.substr(at_, 3)));
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Escape() {
    if (at_ + 1 >= pattern_.size()) return Unsupported("a \\ at the end");
    const char c = pattern_[at_ + 1];
    if (c == 's') {
      Replace(2, in_class_ ? std::string(kWhiteSpace) : absl::StrCat("[", kWhiteSpace, "]"));
      return absl::OkStatus();
    }
    if (c == 'S' && !in_class_) {
      Replace(2, absl::StrCat("[^", kWhiteSpace, "]"));
      return absl::OkStatus();
    }
    if (c == 'p' || c == 'P') return Property();
    // Within a class, \S would have to be a class within a class.
    const bool same = c == 'r' || c == 'n' || c == 't' || c == 'f' || c == 'd' || c == 'D' ||
                      c == ' ' || IsAsciiPunctuation(c);
    if (!same) return Unsupported(absl::StrCat("the escape \\", pattern_.substr(at_ + 1, 1)));
    Copy(2);
    return absl::OkStatus();
  }

  // \p{L} and the like: general categories only.
  absl::Status Property() {
    const size_t end = pattern_.find('}', at_);
    const absl::string_view name =
        end == absl::string_view::npos ? "" : pattern_.substr(at_ + 2, end - at_ - 2);
    const bool category = (name.size() == 2 || name.size() == 3) && name[0] == '{' &&
                          std::string("LMNPSZC").find(name[1]) != std::string::npos &&
                          (name.size() == 2 || (name[2] >= 'a' && name[2] <= 'z'));
    if (!category) {
      return Unsupported(absl::StrCat("the property ", pattern_.substr(at_, 8), " of characters"));
    }
    Copy(end + 1 - at_);
    return absl::OkStatus();
  }

  absl::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace whalepod
