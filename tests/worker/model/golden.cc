#include "tests/worker/model/golden.h"

#include <fstream>

namespace whalepod::testing {

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream in(path);
  if (!in) return nlohmann::json(nlohmann::json::value_t::discarded);
  return nlohmann::json::parse(in);
}

void Recorder::OnRoutes(int64_t layer, const Batch& batch, int64_t top_k, const int32_t* ids,
                        const float* /*weights*/) {
  for (int64_t i = 0; i < batch.tokens; ++i) {
    routes[{layer, batch.positions[i]}].assign(ids + i * top_k, ids + (i + 1) * top_k);
  }
}

void Recorder::OnHead(const Batch& batch, int64_t width, DType type, const void* x,
                      int64_t /*vocab0*/, int64_t vocab_rows, const float* row_logits) {
  for (int64_t i = 0; i < batch.samples(); ++i) {
    const int64_t position = batch.positions[batch.sample_rows[i].row];
    logits[position].assign(row_logits + i * vocab_rows, row_logits + (i + 1) * vocab_rows);
    std::vector<float>& values = hidden[position];
    values.resize(width);
    for (int64_t c = 0; c < width; ++c) {
      values[c] = type == DType::kF32 ? static_cast<const float*>(x)[i * width + c]
                                      : ToFloat(static_cast<const BF16*>(x)[i * width + c]);
    }
  }
}

}  // namespace whalepod::testing
