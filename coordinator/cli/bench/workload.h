// The requests of a load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "whalepod/v1/inference.pb.h"

namespace whalepod {

struct RandomWorkload {
  size_t count = 0;
  int64_t input_len = 0;    // tokens of a prompt, after the prefix
  int64_t output_len = 0;   // max_tokens
  double range_ratio = 0;   // [0, 1): lengths are uniform in len * (1 - ratio) .. len * (1 + ratio)
  int64_t prefix_len = 0;   // tokens that all prompts begin with
  uint32_t vocab_size = 0;  // ids are below it
  uint64_t seed = 0;
};

// Prompts of random token ids, and max_tokens; no length is below 1. The same for the same options,
// and the first of many are those of fewer.
std::vector<v1::GenerateRequest> RandomRequests(const RandomWorkload& workload);

}  // namespace whalepod
