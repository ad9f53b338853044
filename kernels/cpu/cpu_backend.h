// The CPU backend: the reference for numbers and the embedded default.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace whalepod {

enum class IsaPath { kBest, kPortable, kAvx2, kAvx512 };

struct CpuOptions {
  int threads = 1;
  // kBest takes what the processor has, unless the environment variable WHALEPOD_ISA
  // (portable, avx2, avx512) says otherwise.
  IsaPath isa = IsaPath::kBest;
};

// FAILED_PRECONDITION if the processor lacks the asked-for path.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuOptions& options);

}  // namespace whalepod
