#include "coordinator/cli/bench/workload.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "coordinator/cli/bench/arrivals.h"

namespace whalepod {
namespace {

int64_t Length(std::mt19937_64& random, int64_t length, double ratio) {
  const auto around = static_cast<double>(length);
  const auto low = static_cast<int64_t>(std::floor(around * (1 - ratio)));
  const auto high = static_cast<int64_t>(std::ceil(around * (1 + ratio)));
  return UniformInt(random, std::max<int64_t>(1, low), std::max<int64_t>(1, high));
}

void AddIds(std::mt19937_64& random, int64_t count, uint32_t vocab_size, v1::TokenIds* ids) {
  for (int64_t i = 0; i < count; ++i) ids->add_ids(static_cast<uint32_t>(random() % vocab_size));
}

}  // namespace

std::vector<v1::GenerateRequest> RandomRequests(const RandomWorkload& workload) {
  std::mt19937_64 random(workload.seed);
  v1::TokenIds prefix;
  AddIds(random, workload.prefix_len, workload.vocab_size, &prefix);
  std::vector<v1::GenerateRequest> requests(workload.count);
  for (v1::GenerateRequest& request : requests) {
    *request.mutable_token_ids() = prefix;
    const int64_t input = Length(random, workload.input_len, workload.range_ratio);
    const int64_t output = Length(random, workload.output_len, workload.range_ratio);
    AddIds(random, input, workload.vocab_size, request.mutable_token_ids());
    request.mutable_options()->set_max_tokens(static_cast<uint32_t>(output));
  }
  return requests;
}

}  // namespace whalepod
