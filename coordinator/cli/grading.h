// Grades answers that end in \boxed{...}, and counts what they took.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// What stands in the last \boxed{} of a text, its braces balanced; none if there is none.
std::optional<std::string> BoxedAnswer(absl::string_view text);

// An answer without what does not matter: white space, $, a full stop at the end, commas between
// thousands, a plus sign, zeros that a number does not need ("+1,240.50" is "1240.5").
std::string NormalAnswer(absl::string_view answer);

// What became of a set of questions, each answered k times.
class Grades {
 public:
  // The answers' texts to one question, fewer than asked for where some failed; what they took, and
  // cost in dollars.
  void Add(absl::string_view right, const std::vector<std::string>& texts, uint32_t asked,
           const v1::Usage& usage, double cost);

  uint32_t questions() const { return questions_; }
  uint64_t answers() const { return answers_; }
  uint64_t right() const { return right_; }
  // Answers that failed or have no box.
  uint64_t without_box() const { return without_box_; }
  // The share of right ones: of answers, averaged over questions; and of questions, by the answer
  // that most of a question's boxes hold (the first of those that are as many).
  double pass_at_1() const { return questions_ == 0 ? 0 : pass_sum_ / questions_; }
  double cons_at_k() const {
    return questions_ == 0 ? 0 : static_cast<double>(majority_right_) / questions_;
  }
  uint64_t output_tokens() const { return output_tokens_; }
  double cost() const { return cost_; }

 private:
  uint32_t questions_ = 0, majority_right_ = 0;
  uint64_t answers_ = 0, right_ = 0, without_box_ = 0, output_tokens_ = 0;
  double pass_sum_ = 0, cost_ = 0;
};

}  // namespace whalepod
