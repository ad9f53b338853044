// An answer as it streams, in typed spans: what the model thinks, and what it answers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "coordinator/text/detokenizer.h"
#include "coordinator/text/tokenizer.h"

namespace whalepod {

enum class SpanKind { kReasoning, kAnswer };

struct TextSpan {
  SpanKind kind = SpanKind::kAnswer;
  std::string text;

  friend bool operator==(const TextSpan&, const TextSpan&) = default;
};

// Where the output begins: see ChatTemplate's RenderedPrompt and LeavesReasoningOpen.
enum class ReasoningStart {
  kOpen,    // the prompt ended within reasoning
  kClosed,  // the output begins with <think>, with at most 64 bytes of white space before it, or it
            // has no reasoning
};

// Whether a prompt given by its ids ends within reasoning: the last of the tags <think> and
// </think> in it is <think>, and no end of sequence follows. Tags are told by their ids; for a
// tokenizer without such tokens, by the text of the last 32 ids, which then ends in "<think>" and
// white space.
bool LeavesReasoningOpen(const Tokenizer& tokenizer, absl::Span<const uint32_t> prompt);

// The ids of <think> and </think>, where both are tokens.
struct ReasoningTags {
  uint32_t open = 0;
  uint32_t close = 0;
};
std::optional<ReasoningTags> ReasoningTagsOf(const Tokenizer& tokenizer);

// Splits an output at its tags. Where <think> and </think> are tokens, those tokens are the tags,
// and the same text made of other tokens is text; otherwise their text is. There are at most two:
// <think> at the beginning, after which comes reasoning, and the first </think> within reasoning,
// after which all is the answer. Other tags are text. The tags themselves, and white space before
// the opening one, are in no span; all else of Tokenizer::Decode is, in order and unchanged. What
// may yet be a tag or is half a character is held back, nothing is taken back. O(bytes) a token.
// One for each sequence; not for several threads at once.
class ReasoningParser {
 public:
  ReasoningParser(std::shared_ptr<const Tokenizer> tokenizer, ReasoningStart start,
                  SpecialTokens special);

  // Appends to `spans` what `id` lets be shown; adjoining text of one kind goes to one span.
  void Add(uint32_t id, std::vector<TextSpan>& spans);
  // Appends what was held back when no more tokens come.
  void Finish(std::vector<TextSpan>& spans);

  // Whether the next token is reasoning; false as long as that is open.
  bool in_reasoning() const { return state_ == State::kReasoning; }

 private:
  enum class State {
    kBeginning,  // nothing but white space so far, in held_
    kReasoning,
    kAnswer,
  };

  // Text that no tag token delimits.
  void AddText(absl::string_view text, std::vector<TextSpan>& spans);
  void AtBeginning(std::vector<TextSpan>& spans);
  void WithinReasoning(std::vector<TextSpan>& spans);
  void Emit(absl::string_view text, std::vector<TextSpan>& spans) const;
  // Ends the text before a tag token.
  void FlushBeforeTag(std::vector<TextSpan>& spans);

  const std::optional<ReasoningTags> tags_;
  Detokenizer detokenizer_;
  State state_;
  std::string held_;  // shown later, or a tag
  std::string text_;  // of one token; kept for its memory
};

}  // namespace whalepod
