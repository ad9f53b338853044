#include "coordinator/text/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

// Marks in a row from which they are put in order here: utf8proc's own sort is quadratic, but
// linear on what is sorted already. Far more than any script stacks.
constexpr int kLongRun = 32;

// Code points assigned after Unicode 9 that reorder or compose, first and last.
constexpr std::pair<char32_t, char32_t> kLater[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x0ECE, 0x0ECE},
    {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},
    {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47},
    {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97},
    {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

bool IsLater(char32_t code) {
  const auto* after =
      std::upper_bound(std::begin(kLater), std::end(kLater), code,
                       [](char32_t c, const auto& range) { return c < range.first; });
  return after != std::begin(kLater) && code <= (after - 1)->second;
}

utf8proc_propval_t CombiningClass(char32_t code) {
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(code))->combining_class;
}

// Whether the code point, decomposed, takes part in reordering. Three Tibetan vowel signs are
// starters that decompose to marks.
bool IsMark(char32_t code) {
  return CombiningClass(code) > 0 || code == 0x0F73 || code == 0x0F75 || code == 0x0F81;
}

// Appends the canonical decomposition of `marks`, stably sorted by combining class: canonically
// equivalent to `marks`, so that the whole has the same form C.
void AppendSorted(const std::vector<char32_t>& marks, std::string& out) {
  std::vector<char32_t> decomposed;
  for (const char32_t mark : marks) {
    std::array<utf8proc_int32_t, 8> parts;
    int boundary = 0;
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(mark), parts.data(), parts.size(),
                                UTF8PROC_DECOMPOSE, &boundary);
    CHECK(count >= 1 && count <= static_cast<utf8proc_ssize_t>(parts.size()));
    decomposed.insert(decomposed.end(), parts.begin(), parts.begin() + count);
  }
  std::stable_sort(decomposed.begin(), decomposed.end(),
                   [](char32_t a, char32_t b) { return CombiningClass(a) < CombiningClass(b); });
  for (const char32_t code : decomposed) AppendCodePoint(code, out);
}

std::string SortLongRuns(absl::string_view text) {
  std::string out;
  std::vector<char32_t> run;
  const auto flush = [&out, &run] {
    if (run.size() >= kLongRun) {
      AppendSorted(run, out);
    } else {
      for (const char32_t code : run) AppendCodePoint(code, out);
    }
    run.clear();
  };
  for (size_t at = 0; at < text.size();) {
    const char32_t code = NextCodePoint(text, at);
    if (IsMark(code)) {
      run.push_back(code);
    } else {
      flush();
      AppendCodePoint(code, out);
    }
  }
  flush();
  return out;
}

bool HasLongRun(absl::string_view text) {
  int run = 0;
  for (size_t at = 0; at < text.size();) {
    run = IsMark(NextCodePoint(text, at)) ? run + 1 : 0;
    if (run >= kLongRun) return true;
  }
  return false;
}

// Form C of a text in which nothing is later than Unicode 9.
std::string ComposeStretch(absl::string_view text) {
  if (IsPlainlyNfc(text)) return std::string(text);
  std::string sorted;
  if (HasLongRun(text)) {
    sorted = SortLongRuns(text);
    text = sorted;
  }
  utf8proc_uint8_t* normal = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &normal,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(normal, &std::free);
  CHECK(length >= 0);
  return std::string(reinterpret_cast<const char*>(normal), length);
}

}  // namespace

bool IsPlainlyNfc(absl::string_view text) {
  // 0xCC leads U+0300.
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
}

std::string Nfc(absl::string_view text) {
  std::string out;
  size_t stretch = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (!IsLater(NextCodePoint(text, at))) continue;
    out += ComposeStretch(text.substr(stretch, begin - stretch));
    absl::StrAppend(&out, text.substr(begin, at - begin));
    stretch = at;
  }
  return out + ComposeStretch(text.substr(stretch));
}

}  // namespace whalepod
