#include "worker/executor.h"

#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/plan/memory.h"
#include "worker/kv/latent_pool.h"
#include "worker/model/forward.h"
#include "worker/model/sequences.h"

namespace whalepod {
namespace {

// By the step's number, so that the reports of all ranks are of the same steps.
constexpr uint64_t kLoadReportSteps = 64;

class StepExecutor : public Executor {
 public:
  StepExecutor(Options options, LatentPool pool)
      : options_(std::move(options)), pool_(std::move(pool)) {}

  absl::Status Init();
  absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) override;
  int64_t activation_bytes() const override { return forward_->activation_bytes(); }

 private:
  absl::StatusOr<v1::StepResult> RunStep(const v1::StepPlan& step, TimePoint deadline);

  const Options options_;
  const LatentPool pool_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<SequenceTable> sequences_;
  uint64_t last_step_ = 0;
  absl::Status failed_;  // the first error; every later step returns it
};

absl::Status StepExecutor::Init() {
  ASSIGN_OR_RETURN(forward_, Forward::Create({.part = options_.part,
                                              .backend = options_.backend,
                                              .weights = &options_.weights,
                                              .activations = options_.activations.data,
                                              .activation_bytes = options_.activations.bytes,
                                              .communicators = options_.communicators,
                                              .observer = options_.observer}));
  sequences_ = std::make_unique<SequenceTable>(forward_->dims(), pool_);
  return absl::OkStatus();
}

absl::StatusOr<v1::StepResult> StepExecutor::Run(const v1::StepPlan& step, TimePoint deadline) {
  if (!failed_.ok()) return failed_;
  absl::StatusOr<v1::StepResult> result = RunStep(step, deadline);
  if (!result.ok()) failed_ = Annotate(result.status(), absl::StrCat("step ", step.step()));
  if (!failed_.ok()) return failed_;
  return result;
}

absl::StatusOr<v1::StepResult> StepExecutor::RunStep(const v1::StepPlan& step, TimePoint deadline) {
  if (step.step() != last_step_ + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("expected step ", last_step_ + 1, ", got ", step.step()));
  }
  const TimePoint start = options_.clock->Now();
  RETURN_IF_ERROR(sequences_->Apply(step));
  ASSIGN_OR_RETURN(const Batch batch, sequences_->Layout(step));
  ASSIGN_OR_RETURN(const std::vector<Sampled> rows, forward_->Run(batch, pool_, deadline));
  SequenceTable::Results results = sequences_->Commit(batch, rows);
  last_step_ = step.step();

  v1::StepResult result;
  result.set_epoch(step.epoch());
  result.set_step(step.step());
  result.set_digest(sequences_->Digest());
  const SequenceTable::Held held = sequences_->held();
  result.set_live_sequences(held.sequences);
  result.set_live_blocks(held.blocks);
  if (forward_->dims().at.tp == 0) {
    for (v1::SampledToken& token : results.tokens) *result.add_tokens() = std::move(token);
    for (v1::PromptLogprob& score : results.prompt) *result.add_prompt() = std::move(score);
  }
  if (step.step() % kLoadReportSteps == 0) {
    if (std::optional<v1::ExpertLoad> load = forward_->TakeExpertLoad()) {
      *result.mutable_expert_load() = *std::move(load);
    }
  }
  result.set_compute_micros(static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(options_.clock->Now() - start)
          .count()));
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Executor>> Executor::Create(Options options) {
  const v1::ShardingPlan& plan = options.part->header();
  const v1::RankPart& part = options.part->part();
  ASSIGN_OR_RETURN(
      LatentPool pool,
      LatentPool::Create({.layers = part.layer_end() - part.layer_begin(),
                          .blocks = KvBlocks(plan, part),
                          .block_tokens = plan.runtime().kv_block_tokens(),
                          .width = plan.model().kv_lora_rank() + plan.model().qk_rope_head_dim(),
                          .type = static_cast<DType>(plan.runtime().compute_dtype())},
                         options.kv.data, options.kv.bytes));
  auto executor = std::make_unique<StepExecutor>(std::move(options), std::move(pool));
  RETURN_IF_ERROR(executor->Init());
  return executor;
}

}  // namespace whalepod
