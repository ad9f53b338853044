// What goldens say, and a tap that collects what a run gives to compare with them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "worker/model/observer.h"

namespace whalepod::testing {

// Reads a JSON file; a discarded value if there is none.
nlohmann::json ReadJson(const std::string& path);

// Logits, hidden states and routes by position, for runs of one sequence at a time on one rank.
class Recorder : public ForwardObserver {
 public:
  void OnRoutes(int64_t layer, const Batch& batch, int64_t top_k, const int32_t* ids,
                const float* weights) override;
  void OnHead(const Batch& batch, int64_t width, DType type, const void* hidden, int64_t vocab0,
              int64_t vocab_rows, const float* logits) override;
  void Clear() { *this = Recorder(); }

  std::map<int64_t, std::vector<float>> logits;                    // by position
  std::map<int64_t, std::vector<float>> hidden;                    // after the last norm
  std::map<std::pair<int64_t, int64_t>, std::vector<int>> routes;  // by (layer, position)
};

}  // namespace whalepod::testing
