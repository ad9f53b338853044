// A deployment in one process for tests: a checkpoint planned for a layout, a thread a rank, steps
// made by a small scheduler.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"
#include "whalepod/v1/plan.pb.h"
#include "whalepod/v1/step.pb.h"
#include "worker/comm/in_process.h"
#include "worker/executor.h"
#include "worker/model/observer.h"
#include "worker/weights/weights.h"

namespace whalepod::testing {

struct DeploymentOptions {
  std::string checkpoint;  // folder
  int dp = 1, tp = 1;
  int ep = 0, moe_tp = 0;  // 0: the planner chooses
  bool float32 = false;
  bool w8a8 = false;
  int64_t max_tokens = 64;  // of a DP group in a step
  int64_t max_seqs = 16;
  int64_t max_model_len = 256;
  int64_t block_tokens = 64;
  int threads = 1;                      // of a rank
  ForwardObserver* observer = nullptr;  // of rank 0
  IsaPath isa = IsaPath::kBest;
  // Put around each rank's backend; empty: none.
  std::function<std::unique_ptr<Backend>(std::unique_ptr<Backend>)> wrap;

  std::string Name() const;
};

// Loaded ranks that run steps together.
class Deployment {
 public:
  static absl::StatusOr<std::unique_ptr<Deployment>> Create(const DeploymentOptions& options);
  ~Deployment();

  // Runs the step on all ranks; results by rank. INTERNAL if ranks of a DP group disagree on the
  // digest or one that is not TP rank 0 reports tokens. Sets the step's number and epoch.
  absl::StatusOr<std::vector<v1::StepResult>> Step(v1::StepPlan step);

  const v1::ShardingPlan& plan() const { return plan_; }
  const DeploymentOptions& options() const { return options_; }
  int64_t blocks(int dp_group) const;
  const Executor& executor(int rank) const { return *ranks_[rank]->executor; }
  // Bytes that the plan gives the rank's activation arena.
  int64_t planned_activations(int rank) const;
  // A rank's weights, to break them on purpose.
  const WeightMap& weights(int rank) const { return *ranks_[rank]->weights; }

 private:
  struct RankState {
    v1::PlanPart part;
    std::unique_ptr<Backend> backend;
    std::optional<WeightMap> weights;
    std::vector<std::byte> weight_arena, kv_arena, activation_arena;
    std::vector<std::unique_ptr<Communicator>> communicators;
    std::unique_ptr<Executor> executor;
  };

  absl::Status MakePlan();
  absl::Status LoadRank(int rank);
  absl::Status StartRank(int rank);
  // Runs `work` for every rank on a thread of its own; the first error aborts the others.
  template <typename Work>
  absl::Status OnAllRanks(const Work& work);

  DeploymentOptions options_;
  v1::ShardingPlan plan_;
  std::unique_ptr<InProcessWorld> world_;
  std::vector<std::unique_ptr<RankState>> ranks_;
  uint64_t step_ = 0;
};

struct Request {
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> generated;  // already there: the sequence is entered anew (recompute)
  int max_new = 16;
  bool ignore_eos = true;
  float temperature = 0;
  uint64_t seed = 0;
  uint32_t choice = 0;
  int logprobs = 0;
  v1::SamplingParams more;  // merged with the above
  int64_t chunk = 0;        // tokens of a prefill chunk; 0: as many as a step takes
  int dp_group = 0;
};

struct Completion {
  std::vector<uint32_t> ids;
  std::vector<float> logprobs;
  std::vector<std::vector<v1::TopLogprob>> top;
  std::vector<v1::PromptLogprob> prompt;
  std::string error;
};

// Serves all requests, first come first served within their DP group, and returns their completions
// in order. Sequences share batches as they fit.
absl::StatusOr<std::vector<Completion>> Generate(Deployment& deployment,
                                                 const std::vector<Request>& requests);

}  // namespace whalepod::testing
