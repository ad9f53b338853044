#include "tests/coordinator/text/text_strings.h"

#include <iterator>
#include <utility>

#include "coordinator/text/regex.h"
#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

struct Bounds {
  char32_t first;
  char32_t last;
};

constexpr const char* kWords[] = {"the",
                                  "Whale",
                                  "pod",
                                  "RUN",
                                  "it's",
                                  "I'll",
                                  "WE'VE",
                                  "don't",
                                  "x86",
                                  "naïve",
                                  "café",
                                  "Straße",
                                  "ſtop",
                                  "she'ſ",
                                  "hello,",
                                  "world!",
                                  "(a)",
                                  "[b]",
                                  "\"q\"",
                                  "a.b",
                                  "e.g.",
                                  "--flag",
                                  "#tag",
                                  "$HOME",
                                  "C++",
                                  "http://a.io/?x=1&y=2",
                                  "_under_score",
                                  "CamelCase",
                                  "日本語",
                                  "こんにちは",
                                  "カタカナ",
                                  "中文",
                                  "한국어",
                                  "ไทย",
                                  "हिन\340\245\215दी",
                                  "עברית",
                                  "العربية",
                                  "русский",
                                  "ελληνικά",
                                  "Ω",
                                  "ﬁ",
                                  "Å",
                                  "①",
                                  "½",
                                  "٣٤٥",
                                  "１２３"};
constexpr const char* kCode[] = {"def f(x):\n    return x**2  # note\n",
                                 "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n",
                                 "<a href=\"#\">b</a>",
                                 "{\"k\": [1, 2.5e-3, null]}",
                                 "SELECT * FROM t WHERE a='b';",
                                 "\\boxed{405}",
                                 "x = y if z else w\r\n",
                                 "$$\\frac{a}{b}$$",
                                 "let v: Vec<u8> = vec![0; 1_000];",
                                 "#include <vector>\n\n",
                                 "```cpp\nint main() {}\n```"};
constexpr const char* kSpaces[] = {" ",
                                   "  ",
                                   "   ",
                                   "\n",
                                   "\n\n",
                                   "\r\n",
                                   "\r",
                                   "\t",
                                   " \n",
                                   "\n ",
                                   " \t ",
                                   "\302\240",
                                   "\343\200\200",
                                   "\342\200\203",
                                   "\341\240\216",
                                   "\342\200\213",
                                   "\302\205",
                                   "\342\200\250",
                                   "\342\200\251",
                                   "\342\200\257",
                                   "\342\201\237",
                                   "\341\232\200",
                                   "\357\273\277",
                                   "\013",
                                   "\014"};
constexpr const char* kNames[] = {"<think>",
                                  "</think>",
                                  "<｜User｜>",
                                  "<｜Assistant｜>",
                                  "<｜begin▁of▁sentence｜>",
                                  "<｜end▁of▁sentence｜>",
                                  "<|EOT|>",
                                  "<｜tool▁sep｜>",
                                  "<｜▁pad▁｜>",
                                  "<｜fim▁hole｜>",
                                  "<tool_call>",
                                  "<|fim_pad|>",
                                  "<｜User",
                                  "<thin",
                                  "</think",
                                  "<|",
                                  "｜>",
                                  "<<think>>",
                                  "<｜place▁holder▁no▁12｜>"};
constexpr Bounds kRanges[] = {
    {0x20, 0x7E},       {0xA0, 0xFF},       {0x100, 0x24F},     {0x250, 0x36F},
    {0x370, 0x3FF},     {0x400, 0x52F},     {0x530, 0x5FF},     {0x600, 0x6FF},
    {0x700, 0x7BF},     {0x900, 0x97F},     {0x980, 0xDFF},     {0xE00, 0xEFF},
    {0xF00, 0xFFF},     {0x1000, 0x10FF},   {0x1100, 0x11FF},   {0x1200, 0x139F},
    {0x13A0, 0x167F},   {0x1780, 0x18AF},   {0x1E00, 0x1FFF},   {0x2000, 0x206F},
    {0x2070, 0x218F},   {0x2190, 0x23FF},   {0x2460, 0x27BF},   {0x2C00, 0x2DFF},
    {0x3000, 0x30FF},   {0x3100, 0x33FF},   {0x4E00, 0x9FFF},   {0x9F00, 0xA4CF},
    {0xA500, 0xABFF},   {0xAC00, 0xD7A3},   {0xF900, 0xFAFF},   {0xFB00, 0xFDFF},
    {0xFE00, 0xFE6F},   {0xFF00, 0xFFEF},   {0x10000, 0x103FF}, {0x1D400, 0x1D7FF},
    {0x1E900, 0x1E95F}, {0x20000, 0x2A6DF}, {0x2F800, 0x2FA1F}};
constexpr char32_t kDigits[] = {0x30,   0x660,   0x6F0,  0x966,  0xE50,
                                0xFF10, 0x1D7CE, 0x2460, 0x2160, 0x3021};
constexpr Bounds kEmoji[] = {{0x1F300, 0x1F64F},
                             {0x1F680, 0x1F6FC},
                             {0x1F900, 0x1F9FF},
                             {0x2600, 0x27BF},
                             {0x1F1E6, 0x1F1FF}};
constexpr Bounds kMarks[] = {
    {0x300, 0x36F}, {0x591, 0x5BD},   {0x610, 0x61A},   {0x64B, 0x65F},   {0x93C, 0x94D},
    {0xF71, 0xF84}, {0x3099, 0x309A}, {0x1DC0, 0x1DFF}, {0x20D0, 0x20F0}, {0x1D165, 0x1D172}};

// SplitMix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t Below(uint64_t limit) {
    state_ += 0x9E3779B97F4A7C15;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return (z ^ (z >> 31)) % limit;
  }
  template <typename T, size_t kSize>
  const T& Pick(const T (&items)[kSize]) {
    return items[Below(kSize)];
  }
  std::string CodePoint(const Bounds& bounds) {
    return Text(bounds.first + static_cast<char32_t>(Below(bounds.last - bounds.first + 1)));
  }
  static std::string Text(char32_t code) {
    std::string out;
    AppendCodePoint(code, out);
    return out;
  }

 private:
  uint64_t state_;
};

std::string Repeat(Random& r, uint64_t most, const auto& make) {
  std::string out;
  for (uint64_t count = 1 + r.Below(most); count > 0; --count) out += make();
  return out;
}

std::string Words(Random& r) {
  return Repeat(r, 8, [&r] {
    std::string word = r.Pick(kWords);
    return r.Below(4) > 0 ? word + " " : word;
  });
}

std::string Digits(Random& r) {
  const char32_t zero = r.Pick(kDigits);
  return Repeat(r, 12, [&] { return r.Text(zero + static_cast<char32_t>(r.Below(10))); });
}

std::string Script(Random& r) {
  const Bounds& bounds = r.Pick(kRanges);
  return Repeat(r, 12, [&] { return r.CodePoint(bounds); });
}

std::string Emoji(Random& r) {
  static constexpr const char* kAfter[] = {"", "\357\270\217", "\342\200\215", "\360\237\217\275"};
  return Repeat(r, 4, [&r] {
    const std::string base = r.CodePoint(r.Pick(kEmoji));
    return base + r.Pick(kAfter);
  });
}

std::string Controls(Random& r) {
  return Repeat(r, 5, [&r] {
    const bool low = r.Below(3) > 0;
    return r.Text(static_cast<char32_t>(low ? r.Below(32) : 127 + r.Below(33)));
  });
}

std::string Marks(Random& r) {
  const std::string base = r.CodePoint(r.Pick(kRanges));
  return base + Repeat(r, 6, [&r] { return r.CodePoint(r.Pick(kMarks)); });
}

std::string Run(Random& r) {
  const uint64_t kind = r.Below(3);
  const std::string unit = kind == 0   ? r.CodePoint(r.Pick(kRanges))
                           : kind == 1 ? std::string(r.Pick(kSpaces))
                                       : r.Text(static_cast<char32_t>(0x21 + r.Below(94)));
  return Repeat(r, 120, [&unit] { return unit; });
}

std::string Anything(Random& r) {
  return Repeat(r, 6, [&r] {
    const char32_t code = static_cast<char32_t>(r.Below(0x110000 - 0x800));
    return r.Text(code < 0xD800 ? code : code + 0x800);
  });
}

std::string Code(Random& r) { return r.Pick(kCode); }
std::string Spaces(Random& r) {
  return Repeat(r, 4, [&r] { return std::string(r.Pick(kSpaces)); });
}
std::string Names(Random& r) { return r.Pick(kNames); }

using Kind = std::string (*)(Random&);
constexpr Kind kKinds[] = {Words,  Words, Words,    Digits, Code, Spaces,   Spaces, Script,
                           Script, Emoji, Controls, Marks,  Run,  Anything, Names};

// Without code points that Unicode 14 (PCRE2's) doesn't assign.
std::string Assigned(const std::string& text) {
  static const Regex* const kUnassigned = new Regex(*Regex::Compile("\\p{Cn}+"));
  Regex::Scratch scratch;
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Regex::Match match = *kUnassigned->Find(text, at, scratch);
    out.append(text, at, match.begin - at);
    at = match.end;
  }
  return out;
}

// As make_chat's text().
std::string ChatText(Random& r, bool clean) {
  std::string text = MakeString(r.Below(uint64_t{1} << 40));
  if (clean) std::erase(text, '<');
  return text;
}

}  // namespace

std::string MakeString(uint64_t seed) {
  Random r(seed);
  return Assigned(Repeat(r, 8, [&r] { return r.Pick(kKinds)(r); }));
}

std::vector<ChatMessage> MakeChat(uint64_t seed, bool tools) {
  Random r(seed + (uint64_t{1} << 40));
  const bool clean = seed % 2 == 0;
  std::vector<ChatMessage> messages;
  for (uint64_t count = 1 + r.Below(6); count > 0; --count) {
    const uint64_t kind = r.Below(tools ? 8 : 6);
    ChatMessage message{.role = kind == 0   ? "system"
                                : kind <= 2 ? "user"
                                : kind == 6 ? "tool"
                                            : "assistant"};
    if (kind == 7) {
      for (uint64_t calls = 1 + r.Below(3); calls > 0; --calls) {
        const std::string name = "f" + ChatText(r, clean);
        message.tool_calls.push_back({"function", name, ChatText(r, clean)});
      }
    } else {
      message.content = ChatText(r, clean);
      if (kind == 5 && !(clean && tools)) {
        *message.content += "</think>";
        *message.content += ChatText(r, clean);
      }
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

uint32_t Crc32(absl::string_view bytes, uint32_t crc) {
  crc = ~crc;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
  }
  return ~crc;
}

}  // namespace whalepod
