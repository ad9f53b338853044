// Ends an answer at a text that the client named.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/text/reasoning_parser.h"

namespace whalepod {

// Passes spans on up to the first stop string that is complete (of two that are complete at the
// same byte, the one that began first). What may yet be the beginning of one is held back; nothing
// is taken back, and what is passed does not depend on how the text came in pieces. A stop string
// lies within reasoning or within the answer, not across. O(bytes x strings) a piece. One for each
// sequence.
class StopStrings {
 public:
  // None of `stops` is empty; without any all is passed at once.
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Appends to `out` what can be shown; true if a stop string is complete: the answer ends with
  // `out`, and `stopped_by()` is that string. Not to be called after that.
  bool Add(const TextSpan& span, std::vector<TextSpan>& out);
  // Appends what was held back when no more text comes.
  void Finish(std::vector<TextSpan>& out);

  const std::string& stopped_by() const { return stopped_by_; }

 private:
  // Bytes at the end of held_ that begin a stop string.
  size_t BeginningAtEnd() const;
  void Pass(size_t bytes, std::vector<TextSpan>& out);

  std::vector<std::string> stops_;
  SpanKind kind_ = SpanKind::kAnswer;  // of what is held back
  std::string held_;
  std::string stopped_by_;
};

}  // namespace whalepod
