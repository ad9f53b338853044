// A backend with one thing wrong, to show that tests would see it.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "kernels/ops.h"

namespace whalepod::testing {

enum class Mutation {
  kNone,
  kExpertError,       // the first expert's rows are 0.1 % too large
  kRotatedReduction,  // partials are added in rotated order
  kShiftedRope,       // queries are rotated one position too far
};

// Passes every op on to `inner`, and breaks one.
class MutantBackend : public Backend {
 public:
  MutantBackend(std::unique_ptr<Backend> inner, Mutation mutation)
      : inner_(std::move(inner)), mutation_(mutation) {}

  std::string InstructionPath() const override { return inner_->InstructionPath(); }
  int Threads() const override { return inner_->Threads(); }
  int64_t AttentionExpandedScratch(int64_t max_context, int64_t max_tokens, int64_t nope, int64_t v,
                                   DType type) const override {
    return inner_->AttentionExpandedScratch(max_context, max_tokens, nope, v, type);
  }
  int64_t AttentionAbsorbedScratch(int64_t max_context) const override {
    return inner_->AttentionAbsorbedScratch(max_context);
  }

 protected:
  absl::Status DoEmbed(const EmbedArgs& args) override { return inner_->Embed(args); }
  absl::Status DoRmsNorm(const RmsNormArgs& args) override { return inner_->RmsNorm(args); }
  absl::Status DoMatMul(const MatMulArgs& args) override { return inner_->MatMul(args); }
  absl::Status DoGroupedMatMul(const GroupedMatMulArgs& args) override;
  absl::Status DoQuantize(const QuantizeArgs& args) override { return inner_->Quantize(args); }
  absl::Status DoRope(const RopeArgs& args) override;
  absl::Status DoCacheWrite(const CacheWriteArgs& args) override {
    return inner_->CacheWrite(args);
  }
  absl::Status DoAttentionExpanded(const AttentionExpandedArgs& args) override {
    return inner_->AttentionExpanded(args);
  }
  absl::Status DoAttentionAbsorbed(const AttentionAbsorbedArgs& args) override {
    return inner_->AttentionAbsorbed(args);
  }
  absl::Status DoSwiGlu(const SwiGluArgs& args) override { return inner_->SwiGlu(args); }
  absl::Status DoRoute(const RouteArgs& args) override { return inner_->Route(args); }
  absl::Status DoExpertCombine(const ExpertCombineArgs& args) override {
    return inner_->ExpertCombine(args);
  }
  absl::Status DoTreeAdd(const TreeAddArgs& args) override;
  absl::Status DoCast(const CastArgs& args) override { return inner_->Cast(args); }
  absl::Status DoSample(const SampleArgs& args) override { return inner_->Sample(args); }
  absl::Status DoSampleFiltered(const SampleFilteredArgs& args) override {
    return inner_->SampleFiltered(args);
  }

 private:
  std::unique_ptr<Backend> inner_;
  Mutation mutation_;
};

}  // namespace whalepod::testing
