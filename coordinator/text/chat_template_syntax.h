// Recognises the chat templates (Jinja) of DeepSeek's checkpoints.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace whalepod {

// In what the known templates differ.
struct ChatRules {
  enum class System {
    kLast,    // the last system message counts
    kJoined,  // all do, with an empty line between them
  };
  enum class ToolCalls {
    kNone,            // roles "tool" and calls are unknown to the template
    kWithoutContent,  // calls count in messages without content; the end of the list is written
                      // after each call but the first
    kAlways,          // calls count; the end of the list is written after them
  };
  System system = System::kLast;
  ToolCalls tool_calls = ToolCalls::kNone;
  bool newline_between_outputs = false;  // of tools
  bool opens_reasoning = false;          // the generation prompt ends in "<think>\n"

  friend bool operator==(const ChatRules&, const ChatRules&) = default;
};

// The rules of `source`. Templates are compared as Jinja (with transformers' trim_blocks and
// lstrip_blocks) reads them: white space within tags, trimmed white space between them, and "\n"
// for a newline in a string make no difference; anything else does. INVALID_ARGUMENT for an unknown
// one shows where it departs from those that are known.
absl::StatusOr<ChatRules> RecognizeChatTemplate(absl::string_view source);

// The template's tags in one form, for comparison: no white space outside of strings, no trim
// marks.
std::string CanonicalTemplate(absl::string_view source);

}  // namespace whalepod
