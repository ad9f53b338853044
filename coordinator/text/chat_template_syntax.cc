#include "coordinator/text/chat_template_syntax.h"

#include <algorithm>
#include <functional>
#include <initializer_list>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "coordinator/text/text_json.h"

namespace whalepod {
namespace {

// Canonical forms. Known templates are a sequence of these parts.
constexpr char kHead[] =
    "{%ifnotadd_generation_promptisdefined%}{%setadd_generation_prompt=false%}{%endif%}";
constexpr char kStatePlain[] = "{%setns=namespace(system_prompt='')%}";
constexpr char kStateLast[] =
    "{%setns=namespace(is_first=false,is_tool=false,is_output_first=true,system_prompt='')%}";
constexpr char kStateJoined[] =
    "{%setns=namespace(is_first=false,is_tool=false,is_output_first=true,system_prompt='',"
    "is_first_sp=true)%}";
constexpr char kSystemLast[] =
    "{%formessageinmessages%}{%ifmessage['role']=='system'%}"
    "{%setns.system_prompt=message['content']%}{%endif%}{%endfor%}";
constexpr char kSystemJoined[] =
    "{%formessageinmessages%}{%ifmessage['role']=='system'%}"
    "{%ifns.is_first_sp%}{%setns.system_prompt=ns.system_prompt+message['content']%}"
    "{%setns.is_first_sp=false%}"
    "{%else%}{%setns.system_prompt=ns.system_prompt+'\\n\\n'+message['content']%}{%endif%}"
    "{%endif%}{%endfor%}";
constexpr char kOpening[] = "{{bos_token}}{{ns.system_prompt}}{%formessageinmessages%}";
constexpr char kUserPlain[] =
    "{%ifmessage['role']=='user'%}{{'<｜User｜>'+message['content']}}{%endif%}";
constexpr char kUser[] =
    "{%ifmessage['role']=='user'%}{%setns.is_tool=false%}"
    "{{'<｜User｜>'+message['content']}}{%endif%}";

#define CALL                                                                                \
  "<｜tool▁call▁begin｜>'+tool['type']+'<｜tool▁sep｜>'+tool['function']['name']" \
  "+'\\n'+'```json'+'\\n'+tool['function']['arguments']+'\\n'+'```'+'<｜tool▁call▁end｜>'}}"
constexpr char kCallsWithoutContent[] =
    "{%ifmessage['role']=='assistant'andmessage['content']isnone%}{%setns.is_tool=false%}"
    "{%fortoolinmessage['tool_calls']%}{%ifnotns.is_first%}"
    "{{'<｜Assistant｜><｜tool▁calls▁begin｜>" CALL
    "{%setns.is_first=true%}"
    "{%else%}{{'\\n'+'" CALL
    "{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%endif%}{%endfor%}{%endif%}";
constexpr char kCallsAlways[] =
    "{%ifmessage['role']=='assistant'and'tool_calls'inmessage%}{%setns.is_tool=false%}"
    "{%fortoolinmessage['tool_calls']%}{%ifnotns.is_first%}"
    "{%ifmessage['content']isnone%}{{'<｜Assistant｜><｜tool▁calls▁begin｜>" CALL
    "{%else%}{{'<｜Assistant｜>'+message['content']+'<｜tool▁calls▁begin｜>" CALL
    "{%endif%}{%setns.is_first=true%}"
    "{%else%}{{'\\n'+'" CALL
    "{%endif%}{%endfor%}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}{%endif%}";
#undef CALL

constexpr char kAnswerWithContent[] =
    "{%ifmessage['role']=='assistant'andmessage['content']isnotnone%}";
constexpr char kAnswerWithoutCalls[] =
    "{%ifmessage['role']=='assistant'and'tool_calls'notinmessage%}";
#define STRIP                         \
  "{%setcontent=message['content']%}" \
  "{%if'</think>'incontent%}{%setcontent=content.split('</think>')[-1]%}{%endif%}"
#define AFTER_TOOLS                                                                                     \
  "{%ifns.is_tool%}{{'<｜tool▁outputs▁end｜>'+message['content']+'<｜end▁of▁sentence｜>'}}" \
  "{%setns.is_tool=false%}"
#define ANSWER "{{'<｜Assistant｜>'+content+'<｜end▁of▁sentence｜>'}}"
constexpr char kAnswerPlain[] = "{%ifmessage['role']=='assistant'%}" STRIP ANSWER "{%endif%}";
// The same in effect: what is stripped is not used after tools.
constexpr char kAnswerStripFirst[] = STRIP AFTER_TOOLS "{%else%}" ANSWER "{%endif%}{%endif%}";
constexpr char kAnswerStripLast[] = AFTER_TOOLS "{%else%}" STRIP ANSWER "{%endif%}{%endif%}";
#undef STRIP
#undef AFTER_TOOLS
#undef ANSWER

constexpr char kOutputs[] =
    "{%ifmessage['role']=='tool'%}{%setns.is_tool=true%}{%ifns.is_output_first%}"
    "{{'<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>'+message['content']+'<｜tool▁output▁end｜>'"
    "}}"
    "{%setns.is_output_first=false%}{%else%}";
constexpr char kNextOutputNewline[] =
    "{{'\\n<｜tool▁output▁begin｜>'+message['content']+'<｜tool▁output▁end｜>'}}{%endif%}{%endif%}";
constexpr char kNextOutput[] =
    "{{'<｜tool▁output▁begin｜>'+message['content']+'<｜tool▁output▁end｜>'}}{%endif%}{%endif%}";
constexpr char kEnd[] = "{%endfor%}{%ifns.is_tool%}{{'<｜tool▁outputs▁end｜>'}}{%endif%}";
constexpr char kPrompt[] =
    "{%ifadd_generation_promptandnotns.is_tool%}{{'<｜Assistant｜>'}}{%endif%}";
constexpr char kPromptOpen[] =
    "{%ifadd_generation_promptandnotns.is_tool%}{{'<｜Assistant｜><think>\\n'}}{%endif%}";
constexpr char kEndPlain[] = "{%endfor%}";
constexpr char kPromptPlain[] = "{%ifadd_generation_prompt%}{{'<｜Assistant｜>'}}{%endif%}";
constexpr char kPromptPlainOpen[] =
    "{%ifadd_generation_prompt%}{{'<｜Assistant｜><think>\\n'}}{%endif%}";

// Reads one template part by part.
class Recognizer {
 public:
  explicit Recognizer(std::string canonical)
      : canonical_(std::move(canonical)), rest_(canonical_) {}

  absl::StatusOr<ChatRules> Run() {
    using System = ChatRules::System;
    using ToolCalls = ChatRules::ToolCalls;
    ChatRules rules;
    Choose({kHead});
    const int state = Choose({kStatePlain, kStateLast, kStateJoined});
    const bool plain = state == 0;
    rules.system = state == 2 ? System::kJoined : System::kLast;
    Choose({state == 2 ? kSystemJoined : kSystemLast});
    Choose({kOpening});
    Choose({plain ? kUserPlain : kUser});
    if (plain) {
      Choose({kAnswerPlain});
      Choose({kEndPlain});
      rules.opens_reasoning = Choose({kPromptPlain, kPromptPlainOpen}) == 1;
    } else {
      const bool always = Choose({kCallsWithoutContent, kCallsAlways}) == 1;
      rules.tool_calls = always ? ToolCalls::kAlways : ToolCalls::kWithoutContent;
      Choose({always ? kAnswerWithoutCalls : kAnswerWithContent});
      Choose({kAnswerStripFirst, kAnswerStripLast});
      Choose({kOutputs});
      rules.newline_between_outputs = Choose({kNextOutput, kNextOutputNewline}) == 1;
      Choose({kEnd});
      rules.opens_reasoning = Choose({kPrompt, kPromptOpen}) == 1;
    }
    if (status_.ok() && !rest_.empty()) status_ = Departs({""});
    if (!status_.ok()) return status_;
    return rules;
  }

 private:
  // Which of `parts` comes next; moves behind it. Remembers the first time that none does, and
  // gives 0.
  int Choose(std::initializer_list<absl::string_view> parts) {
    if (!status_.ok()) return 0;
    int index = 0;
    for (const absl::string_view part : parts) {
      if (absl::ConsumePrefix(&rest_, part)) return index;
      ++index;
    }
    status_ = Departs(parts);
    return 0;
  }

  // Shows the place up to which the best of `parts` agrees.
  absl::Status Departs(std::initializer_list<absl::string_view> parts) const {
    absl::string_view best;
    size_t agreed = 0;
    for (const absl::string_view part : parts) {
      const size_t same =
          std::mismatch(part.begin(), part.end(), rest_.begin(), rest_.end()).first - part.begin();
      if (best.empty() || same > agreed) {
        best = part;
        agreed = same;
      }
    }
    return absl::InvalidArgumentError(absl::StrCat(
        "the chat template is none of those known (DeepSeek-R1's and its distillations', in both "
        "revisions): expected ",
        best.empty() ? std::string("its end") : QuotedText(Whole(best, agreed)), ", found ",
        QuotedText(Whole(rest_, agreed))));
  }

  // `text` from `at` on, not from within a character; short.
  static std::string Whole(absl::string_view text, size_t at) {
    while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80)
      --at;
    return std::string(text.substr(std::min(at, text.size()), 60));
  }

  std::string canonical_;
  absl::string_view rest_;
  absl::Status status_;
};

class Canonicalizer {
 public:
  explicit Canonicalizer(absl::string_view source) : source_(source) {}

  std::string Run() {
    while (at_ < source_.size()) {
      const absl::string_view opening = source_.substr(at_, 2);
      opening == "{%" || opening == "{{" ? Tag(opening == "{%") : Between();
    }
    return std::move(out_);
  }

 private:
  // Text between tags.
  void Between() {
    const size_t end = std::min({source_.find("{%", at_), source_.find("{{", at_), source_.size()});
    absl::string_view text = source_.substr(at_, end - at_);
    // White space that belongs to the end of the tag before.
    bool line_start = at_ == 0;
    const absl::string_view stripped = trim_next_ ? absl::StripLeadingAsciiWhitespace(text)
                                       : after_block_
                                           ? absl::StripPrefix(text, "\n")  // trim_blocks
                                           : text;
    if (stripped.size() < text.size()) line_start = text[text.size() - stripped.size() - 1] == '\n';
    text = stripped;
    if (source_.substr(end, 3) == "{%-" || source_.substr(end, 3) == "{{-") {
      text = absl::StripTrailingAsciiWhitespace(text);
    } else if (source_.substr(end, 2) == "{%") {
      // lstrip_blocks: blanks between the beginning of a line and a block.
      const size_t newline = text.rfind('\n');
      const size_t line = newline == absl::string_view::npos ? 0 : newline + 1;
      if ((line > 0 || line_start) &&
          absl::StripLeadingAsciiWhitespace(text.substr(line)).empty()) {
        text = text.substr(0, line);
      }
    }
    absl::StrAppend(&out_, text);
    at_ = end;
  }

  void Tag(bool block) {
    out_.append(source_.data() + at_, 2);
    at_ += 2;
    if (source_.substr(at_, 1) == "-") ++at_;
    const absl::string_view closing = block ? "%}" : "}}";
    while (at_ < source_.size()) {
      const char c = source_[at_];
      if (c == '\'' || c == '"') {
        String(c);
      } else if (source_.substr(at_, 2) == closing) {
        break;
      } else if (c == '-' && source_.substr(at_ + 1, 2) == closing) {
        break;
      } else {
        if (!absl::ascii_isspace(c)) out_.push_back(c);
        ++at_;
      }
    }
    trim_next_ = source_.substr(at_, 1) == "-";
    if (trim_next_) ++at_;
    out_.append(source_.data() + at_, std::min<size_t>(2, source_.size() - at_));
    at_ = std::min(at_ + 2, source_.size());
    after_block_ = block;
  }

  void String(char quote) {
    out_.push_back(source_[at_++]);
    while (at_ < source_.size() && source_[at_] != quote) {
      if (source_[at_] == '\n') {
        out_ += "\\n";
      } else {
        if (source_[at_] == '\\' && at_ + 1 < source_.size()) out_.push_back(source_[at_++]);
        out_.push_back(source_[at_]);
      }
      ++at_;
    }
    if (at_ < source_.size()) out_.push_back(source_[at_++]);
  }

  absl::string_view source_;
  size_t at_ = 0;
  bool trim_next_ = false;
  bool after_block_ = false;
  std::string out_;
};

}  // namespace

std::string CanonicalTemplate(absl::string_view source) { return Canonicalizer(source).Run(); }

absl::StatusOr<ChatRules> RecognizeChatTemplate(absl::string_view source) {
  return Recognizer(CanonicalTemplate(source)).Run();
}

}  // namespace whalepod
