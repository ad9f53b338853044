#include "coordinator/text/reasoning_parser.h"

#include <algorithm>
#include <utility>

namespace whalepod {
namespace {

constexpr absl::string_view kOpen = "<think>";
constexpr absl::string_view kClose = "</think>";
constexpr absl::string_view kWhiteSpace = " \t\r\n\f\v";
constexpr size_t kTailIds = 32;
constexpr size_t kMaxWhiteSpace = 64;

// Bytes at the end of `text` that may be the beginning of `tag`.
size_t PartialTag(absl::string_view text, absl::string_view tag) {
  for (size_t size = std::min(text.size(), tag.size() - 1); size > 0; --size) {
    if (text.substr(text.size() - size) == tag.substr(0, size)) return size;
  }
  return 0;
}

bool AllWhiteSpace(absl::string_view text) {
  return text.find_first_not_of(kWhiteSpace) == absl::string_view::npos;
}

}  // namespace

std::optional<ReasoningTags> ReasoningTagsOf(const Tokenizer& tokenizer) {
  const std::optional<uint32_t> open = tokenizer.AddedToken(kOpen);
  const std::optional<uint32_t> close = tokenizer.AddedToken(kClose);
  if (!open.has_value() || !close.has_value()) return std::nullopt;
  return ReasoningTags{*open, *close};
}

bool LeavesReasoningOpen(const Tokenizer& tokenizer, absl::Span<const uint32_t> prompt) {
  if (const std::optional<ReasoningTags> tags = ReasoningTagsOf(tokenizer)) {
    for (size_t i = prompt.size(); i > 0; --i) {
      const uint32_t id = prompt[i - 1];
      if (id == tags->open) return true;
      if (id == tags->close || id == tokenizer.eos_id()) return false;
    }
    return false;
  }
  const size_t tail = std::min(prompt.size(), kTailIds);
  const std::string text =
      tokenizer.Decode(prompt.subspan(prompt.size() - tail), SpecialTokens::kKeep);
  const size_t tag = text.rfind(kOpen.data(), std::string::npos, kOpen.size());
  return tag != std::string::npos &&
         AllWhiteSpace(absl::string_view(text).substr(tag + kOpen.size()));
}

ReasoningParser::ReasoningParser(std::shared_ptr<const Tokenizer> tokenizer, ReasoningStart start,
                                 SpecialTokens special)
    : tags_(ReasoningTagsOf(*tokenizer)),
      detokenizer_(std::move(tokenizer), special),
      state_(start == ReasoningStart::kOpen ? State::kReasoning : State::kBeginning) {}

void ReasoningParser::Add(uint32_t id, std::vector<TextSpan>& spans) {
  if (state_ == State::kBeginning && tags_ && id == tags_->open) {
    FlushBeforeTag(spans);
    // Text that couldn't be shown may have come before it, and been no white space.
    if (state_ == State::kBeginning) {
      held_.clear();
      state_ = State::kReasoning;
      return;
    }
  } else if (state_ == State::kReasoning && tags_ && id == tags_->close) {
    FlushBeforeTag(spans);
    state_ = State::kAnswer;
    return;
  }
  text_.clear();
  detokenizer_.Add(id, text_);
  AddText(text_, spans);
}

void ReasoningParser::Finish(std::vector<TextSpan>& spans) {
  FlushBeforeTag(spans);
  Emit(held_, spans);
  held_.clear();
}

void ReasoningParser::FlushBeforeTag(std::vector<TextSpan>& spans) {
  text_.clear();
  detokenizer_.Finish(text_);
  AddText(text_, spans);
}

void ReasoningParser::AddText(absl::string_view text, std::vector<TextSpan>& spans) {
  if (text.empty()) return;
  if (state_ == State::kAnswer || (state_ == State::kReasoning && tags_.has_value())) {
    return Emit(text, spans);
  }
  held_.append(text.data(), text.size());
  if (state_ == State::kBeginning) AtBeginning(spans);
  if (state_ == State::kReasoning) WithinReasoning(spans);
}

void ReasoningParser::AtBeginning(std::vector<TextSpan>& spans) {
  const size_t begin = absl::string_view(held_).find_first_not_of(kWhiteSpace);
  if (begin == absl::string_view::npos && held_.size() <= kMaxWhiteSpace) return;
  const absl::string_view text =
      begin == absl::string_view::npos ? "" : absl::string_view(held_).substr(begin);
  if (!tags_.has_value()) {
    if (!text.empty() && text.size() < kOpen.size() && kOpen.substr(0, text.size()) == text) return;
    if (text.substr(0, kOpen.size()) == kOpen) {
      state_ = State::kReasoning;
      held_ = std::string(text.substr(kOpen.size()));
      return;
    }
  }
  state_ = State::kAnswer;
  Emit(held_, spans);
  held_.clear();
}

void ReasoningParser::WithinReasoning(std::vector<TextSpan>& spans) {
  if (held_.empty()) return;
  const absl::string_view held = held_;
  const size_t tag = held.find(kClose);
  if (tag != absl::string_view::npos) {
    Emit(held.substr(0, tag), spans);
    state_ = State::kAnswer;
    Emit(held.substr(tag + kClose.size()), spans);
    held_.clear();
    return;
  }
  const size_t keep = PartialTag(held, kClose);
  Emit(held.substr(0, held.size() - keep), spans);
  held_.erase(0, held.size() - keep);
}

void ReasoningParser::Emit(absl::string_view text, std::vector<TextSpan>& spans) const {
  if (text.empty()) return;
  const SpanKind kind = state_ == State::kReasoning ? SpanKind::kReasoning : SpanKind::kAnswer;
  if (spans.empty() || spans.back().kind != kind) spans.push_back({.kind = kind});
  spans.back().text.append(text.data(), text.size());
}

}  // namespace whalepod
