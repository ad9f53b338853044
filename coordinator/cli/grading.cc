#include "coordinator/cli/grading.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace whalepod {
namespace {

// Digits with at most one point.
bool IsPlainNumber(absl::string_view text) {
  return !text.empty() && std::count(text.begin(), text.end(), '.') <= 1 &&
         std::any_of(text.begin(), text.end(), absl::ascii_isdigit) &&
         std::all_of(text.begin(), text.end(),
                     [](char c) { return absl::ascii_isdigit(c) || c == '.'; });
}

// "1,240" as "1240": commas with three digits after each, and one to three before the first.
std::string WithoutThousands(const std::string& text) {
  const size_t whole = std::min(text.find('.'), text.size());
  std::string plain;
  size_t since = 0;
  bool commas = false;
  for (size_t i = 0; i < whole; ++i) {
    if (text[i] == ',') {
      if (since == 0 || since > 3 || (commas && since != 3)) return text;
      commas = true;
      since = 0;
      continue;
    }
    if (!absl::ascii_isdigit(text[i])) return text;
    ++since;
    plain += text[i];
  }
  if (commas && since != 3) return text;
  return plain + text.substr(whole);
}

std::string ShortNumber(std::string digits) {
  if (absl::StrContains(digits, '.')) {
    digits.erase(digits.find_last_not_of('0') + 1);
    if (digits.back() == '.') digits.pop_back();
  }
  const size_t first = digits.find_first_not_of('0');
  digits.erase(0, std::min(first, digits.size()));
  if (digits.empty() || digits[0] == '.') digits.insert(0, "0");
  return digits;
}

}  // namespace

std::optional<std::string> BoxedAnswer(absl::string_view text) {
  constexpr absl::string_view kBox = "\\boxed{";
  size_t begin = text.rfind(kBox.data(), absl::string_view::npos, kBox.size());
  if (begin == absl::string_view::npos) return std::nullopt;
  begin += kBox.size();
  int depth = 1;
  for (size_t i = begin; i < text.size(); ++i) {
    if (text[i] == '{') ++depth;
    if (text[i] == '}' && --depth == 0) return std::string(text.substr(begin, i - begin));
  }
  return std::nullopt;
}

std::string NormalAnswer(absl::string_view answer) {
  std::string text;
  for (const char c : answer) {
    if (!absl::ascii_isspace(c) && c != '$') text += c;
  }
  if (!text.empty() && text.back() == '.') text.pop_back();
  const bool negative = absl::StartsWith(text, "-");
  std::string size = text.substr(negative || absl::StartsWith(text, "+") ? 1 : 0);
  size = WithoutThousands(size);
  if (!IsPlainNumber(size)) return text;
  size = ShortNumber(size);
  return negative && size != "0" ? absl::StrCat("-", size) : size;
}

void Grades::Add(absl::string_view right, const std::vector<std::string>& texts, uint32_t asked,
                 const v1::Usage& usage, double cost) {
  const std::string wanted = NormalAnswer(right);
  std::map<std::string, uint32_t> votes;
  std::string winner;
  uint32_t boxes = 0, correct = 0;
  for (const std::string& text : texts) {
    const std::optional<std::string> box = BoxedAnswer(text);
    if (!box) continue;
    ++boxes;
    const std::string answer = NormalAnswer(*box);
    if (answer == wanted) ++correct;
    ++votes[answer];
  }
  uint32_t most = 0;
  for (const std::string& text : texts) {
    const std::optional<std::string> box = BoxedAnswer(text);
    if (!box || votes[NormalAnswer(*box)] <= most) continue;
    winner = NormalAnswer(*box);
    most = votes[winner];
  }
  ++questions_;
  answers_ += asked;
  right_ += correct;
  without_box_ += asked - boxes;
  pass_sum_ += asked == 0 ? 0 : static_cast<double>(correct) / asked;
  if (most > 0 && winner == wanted) ++majority_right_;
  output_tokens_ += usage.completion_tokens();
  cost_ += cost;
}

}  // namespace whalepod
