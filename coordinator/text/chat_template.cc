#include "coordinator/text/chat_template.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/text_json.h"
#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

constexpr char kUser[] = "<｜User｜>";
constexpr char kAssistant[] = "<｜Assistant｜>";
constexpr char kEndOfSentence[] = "<｜end▁of▁sentence｜>";
constexpr char kThink[] = "<think>";
constexpr absl::string_view kEndOfThink = "</think>";
constexpr char kCallsBegin[] = "<｜tool▁calls▁begin｜>";
constexpr char kCallsEnd[] = "<｜tool▁calls▁end｜>";
constexpr char kCallBegin[] = "<｜tool▁call▁begin｜>";
constexpr char kCallEnd[] = "<｜tool▁call▁end｜>";
constexpr char kSeparator[] = "<｜tool▁sep｜>";
constexpr char kOutputsBegin[] = "<｜tool▁outputs▁begin｜>";
constexpr char kOutputsEnd[] = "<｜tool▁outputs▁end｜>";
constexpr char kOutputBegin[] = "<｜tool▁output▁begin｜>";
constexpr char kOutputEnd[] = "<｜tool▁output▁end｜>";

absl::Status Bad(const std::string& where, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", what));
}

absl::Status CheckUtf8(absl::string_view text, const std::string& where) {
  const size_t invalid = FindInvalidUtf8(text);
  if (invalid == absl::string_view::npos) return absl::OkStatus();
  return Bad(where, absl::StrCat("not valid UTF-8 at byte ", invalid));
}

// What follows the last end of reasoning.
absl::string_view WithoutReasoning(absl::string_view content) {
  const size_t end = content.rfind(kEndOfThink);
  return end == absl::string_view::npos ? content : content.substr(end + kEndOfThink.size());
}

// Runs the template. The names of its state are the template's own.
class Renderer {
 public:
  Renderer(const ChatRules& rules, const std::string& bos) : rules_(rules) { Control(bos); }

  void System(absl::Span<const ChatMessage> messages) {
    std::string system;
    bool first = true;
    for (const ChatMessage& message : messages) {
      if (message.role != "system") continue;
      if (rules_.system == ChatRules::System::kLast) system.clear();
      if (rules_.system == ChatRules::System::kJoined && !first) system += "\n\n";
      system += *message.content;
      first = false;
    }
    Text(system);
  }

  void Add(const ChatMessage& message) {
    if (message.role == "user") {
      is_tool_ = false;
      Control(kUser);
      Text(*message.content);
    } else if (message.role == "assistant") {
      Assistant(message);
    } else if (message.role == "tool") {
      Output(message);
    }
  }

  RenderedPrompt Finish(bool add_generation_prompt) {
    if (is_tool_) Control(kOutputsEnd);
    if (add_generation_prompt && !is_tool_) {
      Control(kAssistant);
      if (rules_.opens_reasoning) {
        Control(kThink);
        Text("\n");
        prompt_.reasoning_open = true;
      }
    }
    return std::move(prompt_);
  }

 private:
  void Control(absl::string_view name) {
    prompt_.parts.push_back({PromptPart::Kind::kControl, std::string(name)});
  }

  void Text(absl::string_view text) {
    if (text.empty()) return;
    if (prompt_.parts.empty() || prompt_.parts.back().kind != PromptPart::Kind::kText) {
      prompt_.parts.push_back({PromptPart::Kind::kText, ""});
    }
    absl::StrAppend(&prompt_.parts.back().text, text);
  }

  void Assistant(const ChatMessage& message) {
    const bool calls = rules_.tool_calls == ChatRules::ToolCalls::kAlways
                           ? !message.tool_calls.empty()
                           : !message.content.has_value();
    if (calls) return Calls(message);
    if (is_tool_) {
      Control(kOutputsEnd);
      Text(*message.content);
      is_tool_ = false;
    } else {
      Control(kAssistant);
      Text(WithoutReasoning(*message.content));
    }
    Control(kEndOfSentence);
  }

  void Calls(const ChatMessage& message) {
    const bool always = rules_.tool_calls == ChatRules::ToolCalls::kAlways;
    is_tool_ = false;
    for (const ToolCall& call : message.tool_calls) {
      const bool first = !std::exchange(is_first_, true);
      if (first) {
        Control(kAssistant);
        Text(message.content.value_or(""));
        Control(kCallsBegin);
      } else {
        Text("\n");
      }
      Call(call);
      if (!first && !always) CallsEnd();
    }
    if (always) CallsEnd();
  }

  void Call(const ToolCall& call) {
    Control(kCallBegin);
    Text(call.type);
    Control(kSeparator);
    Text(absl::StrCat(call.name, "\n```json\n", call.arguments, "\n```"));
    Control(kCallEnd);
  }

  void CallsEnd() {
    Control(kCallsEnd);
    Control(kEndOfSentence);
  }

  void Output(const ChatMessage& message) {
    is_tool_ = true;
    if (std::exchange(is_output_first_, false)) {
      Control(kOutputsBegin);
    } else if (rules_.newline_between_outputs) {
      Text("\n");
    }
    Control(kOutputBegin);
    Text(*message.content);
    Control(kOutputEnd);
  }

  const ChatRules& rules_;
  RenderedPrompt prompt_;
  bool is_tool_ = false;
  bool is_first_ = false;  // set by the first call, for good
  bool is_output_first_ = true;
};

}  // namespace

std::string RenderedPrompt::Text() const {
  std::string text;
  for (const PromptPart& part : parts) text += part.text;
  return text;
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromConfig(const TokenizerConfig& config) {
  if (!config.chat_template.has_value()) return Bad("chat_template", "expected one, found none");
  if (!config.bos_token.has_value()) {
    return Bad("bos_token", "the chat template needs one, found none");
  }
  ASSIGN_OR_RETURN(const ChatRules rules, RecognizeChatTemplate(*config.chat_template));
  return ChatTemplate(rules, *config.bos_token);
}

absl::StatusOr<ChatTemplate> ChatTemplate::FromFolder(const std::string& folder) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, LoadTokenizerConfig(folder));
  absl::StatusOr<ChatTemplate> made = FromConfig(config);
  if (!made.ok()) return Annotate(made.status(), folder + "/tokenizer_config.json");
  return made;
}

absl::StatusOr<RenderedPrompt> ChatTemplate::Render(absl::Span<const ChatMessage> messages,
                                                    bool add_generation_prompt) const {
  RETURN_IF_ERROR(Check(messages));
  Renderer renderer(rules_, bos_);
  renderer.System(messages);
  for (const ChatMessage& message : messages) renderer.Add(message);
  return renderer.Finish(add_generation_prompt);
}

absl::Status ChatTemplate::Check(absl::Span<const ChatMessage> messages) const {
  if (messages.empty()) return Bad("messages", "expected at least one, found none");
  size_t bytes = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    RETURN_IF_ERROR(CheckMessage(messages[i], absl::StrCat("messages[", i, "]")));
    bytes += messages[i].content.value_or("").size();
    for (const ToolCall& call : messages[i].tool_calls) {
      bytes += call.type.size() + call.name.size() + call.arguments.size();
    }
  }
  if (bytes > Tokenizer::kMaxTextBytes) {
    return Bad("messages",
               absl::StrCat(bytes, " bytes, at most ", Tokenizer::kMaxTextBytes, " are allowed"));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::CheckMessage(const ChatMessage& message,
                                        const std::string& where) const {
  const bool tools = rules_.tool_calls != ChatRules::ToolCalls::kNone;
  const std::string& role = message.role;
  if (role != "system" && role != "user" && role != "assistant" && !(tools && role == "tool")) {
    return Bad(where + ".role", absl::StrCat("expected system, user",
                                             tools ? ", assistant or tool" : " or assistant",
                                             ", found ", QuotedText(role)));
  }
  if (!message.tool_calls.empty() && role != "assistant") {
    return Bad(where + ".tool_calls", absl::StrCat("only an assistant makes them, not a ", role));
  }
  if (!message.tool_calls.empty() && !tools) {
    return Bad(where + ".tool_calls", "the model's chat template has none");
  }
  if (!message.content.has_value() && message.tool_calls.empty()) {
    return Bad(where + ".content", "expected text, found none");
  }
  RETURN_IF_ERROR(CheckUtf8(message.content.value_or(""), where + ".content"));
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    const ToolCall& call = message.tool_calls[i];
    const std::string at = absl::StrCat(where, ".tool_calls[", i, "]");
    if (call.type.empty()) return Bad(at + ".type", "expected one, found none");
    if (call.name.empty()) return Bad(at + ".name", "expected one, found none");
    RETURN_IF_ERROR(CheckUtf8(call.type, at + ".type"));
    RETURN_IF_ERROR(CheckUtf8(call.name, at + ".name"));
    RETURN_IF_ERROR(CheckUtf8(call.arguments, at + ".arguments"));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
