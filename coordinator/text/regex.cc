#define PCRE2_CODE_UNIT_WIDTH 8
#include "coordinator/text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"

namespace whalepod {
namespace {

// Backtracking steps of one search: `kStepsPerByte` for every byte of the text and `kStepsAlways`.
// An expression that splits text into words needs a few for each byte.
constexpr uint64_t kStepsPerByte = 16;
constexpr uint64_t kStepsAlways = 1'000'000;
constexpr uint32_t kMaxHeapKib = 256 << 10;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR Units(absl::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

struct FreeContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

std::string Shown(absl::string_view pattern) {
  return absl::Utf8SafeCEscape(pattern.substr(0, 200));
}

}  // namespace

Regex::Scratch::Scratch() : data_(pcre2_match_data_create(1, nullptr)) { CHECK(data_ != nullptr); }

void Regex::Scratch::Free::operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }

void Regex::Free::operator()(pcre2_code* code) const { pcre2_code_free(code); }

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  const absl::StatusOr<std::string> translated = TranslateRegex(pattern);
  if (!translated.ok()) {
    return Annotate(translated.status(), absl::StrCat("the regular expression ", Shown(pattern)));
  }
  return CompileTranslated(std::string(pattern), *translated);
}

absl::StatusOr<Regex> Regex::Literal(absl::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80 && !absl::ascii_isalnum(c)) {
      absl::StrAppend(&escaped, "\\x{", absl::Hex(static_cast<unsigned char>(c)), "}");
    } else {
      escaped.push_back(c);
    }
  }
  return CompileTranslated(std::string(text), escaped);
}

absl::StatusOr<Regex> Regex::CompileTranslated(std::string pattern, const std::string& translated) {
  const auto bad = [&pattern](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regular expression ", Shown(pattern), ": ", what));
  };
  int error = 0;
  PCRE2_SIZE offset = 0;
  Regex regex;
  regex.code_.reset(pcre2_compile(Units(translated), translated.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                                  nullptr));
  if (regex.code_ == nullptr) {
    return bad(absl::StrCat(ErrorText(error), ", at byte ", offset, " of ", Shown(translated)));
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(regex.code_.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) return bad("it matches the empty string");
  // Without a JIT compiler on this machine, matching is interpreted.
  pcre2_jit_compile(regex.code_.get(), PCRE2_JIT_COMPLETE);
  regex.pattern_ = std::move(pattern);
  return regex;
}

absl::StatusOr<Regex::Match> Regex::Find(absl::string_view text, size_t from,
                                         Scratch& scratch) const {
  static thread_local const std::unique_ptr<pcre2_match_context, FreeContext> context(
      pcre2_match_context_create(nullptr));
  CHECK(context != nullptr);
  const uint64_t steps = kStepsAlways + kStepsPerByte * (text.size() - from);
  pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min<uint64_t>(steps, ~0u)));
  pcre2_set_heap_limit(context.get(), kMaxHeapKib);
  pcre2_match_data* data = scratch.data_.get();
  int found = pcre2_match(code_.get(), Units(text), text.size(), from, PCRE2_NO_UTF_CHECK, data,
                          context.get());
  if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
    found = pcre2_match(code_.get(), Units(text), text.size(), from,
                        PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, context.get());
  }
  if (found == PCRE2_ERROR_NOMATCH) return Match{.begin = text.size(), .end = text.size()};
  if (found < 0) {
    return absl::InvalidArgumentError(absl::StrCat("the regular expression ", Shown(pattern_),
                                                   " on ", text.size() - from,
                                                   " bytes of text: ", ErrorText(found)));
  }
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data);
  // A lookbehind with \K could move the beginning; there is none: TranslateRegex refuses it.
  CHECK(range[0] >= from && range[1] > range[0]);
  return Match{.begin = range[0], .end = range[1]};
}

}  // namespace whalepod
