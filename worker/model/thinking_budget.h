// Counts what a sequence thinks, so that every rank closes its reasoning at the same token.
#pragma once

#include <cstdint>

#include "whalepod/v1/step.pb.h"

namespace whalepod {

class ThinkingBudget {
 public:
  // Without limit.
  ThinkingBudget() = default;
  explicit ThinkingBudget(const v1::SamplingParams& sampling)
      : limited_(sampling.has_thinking_budget()),
        left_(sampling.thinking_budget()),
        begin_(sampling.think_begin()),
        end_(sampling.think_end()),
        state_(sampling.think_open() ? State::kOpen : State::kBefore) {}

  // Takes the next generated token. Reasoning is what comes between the first begin (or the prompt)
  // and the first end after it; the two tags themselves cost nothing.
  void Add(uint32_t token) {
    if (!limited_ || state_ == State::kClosed) return;
    if (state_ == State::kBefore) {
      if (token == begin_) state_ = State::kOpen;
    } else if (token == end_) {
      state_ = State::kClosed;
    } else if (left_ > 0) {
      --left_;
    }
  }

  bool limited() const { return limited_; }
  // The next token must be the end.
  bool spent() const { return limited_ && state_ == State::kOpen && left_ == 0; }

 private:
  enum class State { kBefore, kOpen, kClosed };
  bool limited_ = false;
  uint32_t left_ = 0, begin_ = 0, end_ = 0;
  State state_ = State::kBefore;
};

}  // namespace whalepod
