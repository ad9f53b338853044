// GPUs by name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

struct GpuModel {
  std::string name;  // "H200"
  std::vector<std::string> aliases;
  double memory_gib = 0;      // what the driver shows, about
  double bandwidth_gbps = 0;  // memory, GB/s
  double bf16_tflops = 0;     // dense
  double fp8_tflops = 0;      // dense; 0: none
  int per_node = 8;           // GPUs in the usual node
};

const std::vector<GpuModel>& GpuCatalogue();

// By name or alias; case, spaces, '-' and '_' don't count. NOT_FOUND lists the names.
absl::StatusOr<GpuModel> FindGpu(const std::string& name);

// "16xH200" or "2x8xH200" (nodes x GPUs x model) or "H200": hosts node0, node1, .. of the model's
// usual size or the size given. INVALID_ARGUMENT for text that is neither.
absl::StatusOr<std::vector<v1::Host>> ParseGpus(const std::string& text);

}  // namespace whalepod
