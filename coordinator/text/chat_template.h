// A conversation as a prompt, as the checkpoint's chat template lays it down.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/text/chat_template_syntax.h"
#include "coordinator/text/tokenizer.h"
#include "coordinator/text/tokenizer_config.h"

namespace whalepod {

struct ToolCall {
  std::string type;  // "function"
  std::string name;
  std::string arguments;  // JSON text
};

struct ChatMessage {
  std::string role;                    // "system", "user", "assistant", "tool"
  std::optional<std::string> content;  // may be left out of an assistant's message with tool calls
  std::vector<ToolCall> tool_calls;    // of an assistant
};

struct RenderedPrompt {
  std::vector<PromptPart>
      parts;  // for Tokenizer::EncodeParts, which adds no BOS: it is here already
  bool reasoning_open =
      false;  // it ends in "<think>\n", so that the output begins within reasoning

  // The parts joined.
  std::string Text() const;
};

// Immutable; shared by threads. Of templates, those of DeepSeek-R1 and its distillations are known,
// in their published revisions, and recognised by their contents; others are refused.
//
// Text() is the string that transformers' apply_chat_template gives. The ids of EncodeParts are
// those that it gives where no message contains the name of an added token. Where one does, they
// differ on purpose: only the template itself makes control tokens; "<｜User｜>", "<think>" or
// "<｜end▁of▁sentence｜>" in a message, whoever's, is text, so that nobody can speak in another's
// role. Content given as null, or tool calls that a template leaves out, are treated as the
// template does.
class ChatTemplate {
 public:
  // INVALID_ARGUMENT: no chat_template or no bos_token in `config`, or a template that isn't known,
  // with the place where it departs from those that are.
  static absl::StatusOr<ChatTemplate> FromConfig(const TokenizerConfig& config);
  // From LoadTokenizerConfig(folder), and named in errors.
  static absl::StatusOr<ChatTemplate> FromFolder(const std::string& folder);

  // INVALID_ARGUMENT names the message ("messages[2].role") and what is wrong with it: no messages
  // at all; a role that the template doesn't know; no content (an assistant's may be left out where
  // there are tool calls); tool calls of another role, or without type or name; invalid UTF-8;
  // above Tokenizer::kMaxTextBytes in all.
  absl::StatusOr<RenderedPrompt> Render(absl::Span<const ChatMessage> messages,
                                        bool add_generation_prompt) const;

  const ChatRules& rules() const { return rules_; }

 private:
  ChatTemplate(ChatRules rules, std::string bos) : rules_(rules), bos_(std::move(bos)) {}

  absl::Status Check(absl::Span<const ChatMessage> messages) const;
  absl::Status CheckMessage(const ChatMessage& message, const std::string& where) const;

  ChatRules rules_;
  std::string bos_;
};

}  // namespace whalepod
