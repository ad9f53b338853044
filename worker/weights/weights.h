// The weights of one rank as the forward pass asks for them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/packing.h"
#include "whalepod/v1/plan.pb.h"

namespace whalepod {

// A vector or a row-major matrix in the arena (norms, biases, the embedding).
struct PlainTensor {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 1;
  int64_t cols = 0;
};

// Destinations by (role, layer, expert), resolved from a plan part's slices onto the weight arena.
// Does not own the arena's memory.
class WeightMap {
 public:
  // Checks that slices lie inside the arena, do not overlap and have the sizes their transform
  // gives; INVALID_ARGUMENT names the tensor. Slices without destination roles known here fail.
  static absl::StatusOr<WeightMap> Create(const v1::PlanPart& part, void* arena,
                                          int64_t arena_bytes);

  // NOT_FOUND names role, layer and expert.
  absl::StatusOr<PlainTensor> Plain(v1::TensorRole role, int64_t layer) const;
  // Batch entries of a packed matrix (one, or one a head for kv_b's forms).
  absl::StatusOr<std::vector<PackedMatrix>> Packed(v1::TensorRole role, int64_t layer,
                                                   int64_t expert = 0) const;
  bool Has(v1::TensorRole role, int64_t layer) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

// Reads every slice of `part` into the arena by `threads` parallel preads: only planned extents,
// packed on the way. DATA_LOSS names file, tensor, expected and found bytes. `progress` is called
// from the reading threads with (bytes read, total), first with (0, total); `cancelled` stops it
// with ABORTED.
absl::Status LoadWeights(const v1::PlanPart& part, void* arena, int64_t arena_bytes, int threads,
                         const std::function<void(int64_t, int64_t)>& progress,
                         const std::function<bool()>& cancelled);

}  // namespace whalepod
