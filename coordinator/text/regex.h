// The regular expressions of tokenizer.json, which are written for Oniguruma (Ruby syntax), run by
// PCRE2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;

namespace whalepod {

// `pattern` for PCRE2 with UTF and UCP, where it means the same to both engines: \s and \S become
// the code points with White_Space. INVALID_ARGUMENT names a construct that is unknown here or that
// the two engines read differently (\w, \b, \h, ^, $, nested classes, && in a class, named groups,
// verbs).
absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern);

// A compiled expression. Immutable, shared by threads. Never matches the empty string.
class Regex {
 public:
  // INVALID_ARGUMENT with the pattern, the place and what is wrong there.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);
  // One that matches `text` itself.
  static absl::StatusOr<Regex> Literal(absl::string_view text);

  struct Match {
    size_t begin = 0;
    size_t end = 0;  // == begin: no match
  };

  // What one thread needs to match; for any expression.
  class Scratch {
   public:
    Scratch();

   private:
    friend class Regex;
    struct Free {
      void operator()(pcre2_real_match_data_8* data) const;
    };
    std::unique_ptr<pcre2_real_match_data_8, Free> data_;
  };

  // The first match at or after `from`. `text` is valid UTF-8 and `from` the beginning of a
  // character or the end. INVALID_ARGUMENT if the expression needs more steps than are allowed, in
  // proportion to the text, or more memory.
  absl::StatusOr<Match> Find(absl::string_view text, size_t from, Scratch& scratch) const;

  const std::string& pattern() const { return pattern_; }

 private:
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };

  static absl::StatusOr<Regex> CompileTranslated(std::string pattern,
                                                 const std::string& translated);

  std::string pattern_;  // as in the file
  std::unique_ptr<pcre2_real_code_8, Free> code_;
};

}  // namespace whalepod
