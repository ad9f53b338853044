// Sums of usage.
#pragma once

#include <cstdint>

#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Adds another request's usage.
inline void AddRequest(const v1::Usage& more, v1::Usage* sum) {
  sum->set_prompt_tokens(sum->prompt_tokens() + more.prompt_tokens());
  sum->set_cached_tokens(sum->cached_tokens() + more.cached_tokens());
  sum->set_completion_tokens(sum->completion_tokens() + more.completion_tokens());
  sum->set_reasoning_tokens(sum->reasoning_tokens() + more.reasoning_tokens());
  sum->set_cost_dollars(sum->cost_dollars() + more.cost_dollars());
}

// Adds the usage of one of a request's answers to the request's. All have one prompt, which counts
// once; choice 0 says what of it was cached, since the others may find what that one computed.
inline void AddChoice(const v1::Usage& more, uint32_t choice, v1::Usage* request) {
  request->set_prompt_tokens(more.prompt_tokens());
  if (choice == 0) request->set_cached_tokens(more.cached_tokens());
  request->set_completion_tokens(request->completion_tokens() + more.completion_tokens());
  request->set_reasoning_tokens(request->reasoning_tokens() + more.reasoning_tokens());
  request->set_cost_dollars(request->cost_dollars() + more.cost_dollars());
}

// Adds another row's figures; whose they are stays.
inline void AddRow(const v1::UsageRow& more, v1::UsageRow* sum) {
  sum->set_requests(sum->requests() + more.requests());
  sum->set_input_tokens(sum->input_tokens() + more.input_tokens());
  sum->set_cached_input_tokens(sum->cached_input_tokens() + more.cached_input_tokens());
  sum->set_output_tokens(sum->output_tokens() + more.output_tokens());
  sum->set_reasoning_tokens(sum->reasoning_tokens() + more.reasoning_tokens());
  sum->set_cost_dollars(sum->cost_dollars() + more.cost_dollars());
}

}  // namespace whalepod
