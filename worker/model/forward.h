// The forward pass of the DeepSeek-V3 family (R1), built of named blocks:
//
//   h = embed[ids]
//   for each layer:  h += mla(rmsnorm(h));  h += ffn(rmsnorm(h)), dense or mixture of experts
//   tokens = sample(head(rmsnorm(h)))
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"
#include "worker/comm/communicator.h"
#include "worker/kv/latent_pool.h"
#include "worker/model/batch.h"
#include "worker/model/dims.h"
#include "worker/model/head.h"
#include "worker/model/observer.h"
#include "worker/weights/weights.h"

namespace whalepod {

class Forward {
 public:
  struct Options {
    const v1::PlanPart* part = nullptr;  // outlives the forward, as do all pointers here
    Backend* backend = nullptr;
    const WeightMap* weights = nullptr;
    void* activations = nullptr;  // arena of all buffers
    int64_t activation_bytes = 0;
    std::vector<Communicator*> communicators;  // in the order of part->part().groups()
    ForwardObserver* observer = nullptr;       // may be null
  };
  // RESOURCE_EXHAUSTED if the activation arena is too small (both numbers).
  static absl::StatusOr<std::unique_ptr<Forward>> Create(const Options& options);
  virtual ~Forward() = default;

  virtual const Dims& dims() const = 0;
  // Bytes of the activation arena that the buffers take.
  virtual int64_t activation_bytes() const = 0;

  // Runs one step; the latents of batch's rows are in `pool` afterwards. One result for each of
  // batch.score_rows, then one for each of batch.sample_rows. Every collective of the plan's
  // schedule is called, also with no row.
  virtual absl::StatusOr<std::vector<Sampled>> Run(const Batch& batch, const LatentPool& pool,
                                                   TimePoint deadline) = 0;
  // What this rank's experts ran since the last call; none where another rank tells of them, or
  // where there are none.
  virtual std::optional<v1::ExpertLoad> TakeExpertLoad() = 0;
};

}  // namespace whalepod
