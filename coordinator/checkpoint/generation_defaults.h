// What a request takes where it says nothing: a checkpoint's generation_config.json.
#pragma once

#include <cstdint>

namespace whalepod {

struct GenerationDefaults {
  float temperature = 1.0f;
  int64_t top_k = 0;  // 0: all
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  int64_t max_new_tokens = 0;  // 0: what is left of the context
};

}  // namespace whalepod
