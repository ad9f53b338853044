#include "kernels/cpu/cpu_backend.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/cpu/isa_ops.h"
#include "kernels/cpu/op_table.h"
#include "kernels/cpu/thread_pool.h"

namespace whalepod {
namespace {

const char* PathName(IsaPath path) {
  switch (path) {
    case IsaPath::kPortable:
      return "portable";
    case IsaPath::kAvx2:
      return "avx2";
    case IsaPath::kAvx512:
      return "avx512";
    case IsaPath::kBest:
      return "best";
  }
  return "?";
}

// Also whether the operating system saves the registers: the compiler's check includes that.
bool ProcessorHas(IsaPath path) {
#ifdef WHALEPOD_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (path == IsaPath::kAvx2) return avx2;
  if (path == IsaPath::kAvx512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vbmi");
  }
#endif
  return path == IsaPath::kPortable;
}

absl::StatusOr<IsaPath> ChoosePath(IsaPath asked) {
  if (asked == IsaPath::kBest) {
    const char* variable = std::getenv("WHALEPOD_ISA");
    if (variable != nullptr && variable[0] != '\0') {
      for (IsaPath path : {IsaPath::kPortable, IsaPath::kAvx2, IsaPath::kAvx512}) {
        if (absl::string_view(variable) == PathName(path)) asked = path;
      }
      if (asked == IsaPath::kBest) {
        return absl::InvalidArgumentError(absl::StrCat(
            "environment variable WHALEPOD_ISA: expected portable, avx2 or avx512, found \"",
            variable, "\""));
      }
    }
  }
  if (asked == IsaPath::kBest) {
    if (ProcessorHas(IsaPath::kAvx512)) return IsaPath::kAvx512;
    if (ProcessorHas(IsaPath::kAvx2)) return IsaPath::kAvx2;
    return IsaPath::kPortable;
  }
  if (!ProcessorHas(asked)) {
    return absl::FailedPreconditionError(
        absl::StrCat("this processor lacks the instruction path ", PathName(asked)));
  }
  return asked;
}

const cpu::OpTable& TableOf(IsaPath path) {
#ifdef WHALEPOD_X86
  if (path == IsaPath::kAvx512) return cpu::avx512::Ops();
  if (path == IsaPath::kAvx2) return cpu::avx2::Ops();
#endif
  return cpu::portable::Ops();
}

class CpuBackend : public Backend {
 public:
  CpuBackend(IsaPath path, int threads) : path_(path), ops_(TableOf(path)), pool_(threads) {}

  std::string InstructionPath() const override { return PathName(path_); }
  int Threads() const override { return pool_.threads(); }
  int64_t AttentionExpandedScratch(int64_t max_context, int64_t max_tokens, int64_t nope, int64_t v,
                                   DType type) const override {
    return ops_.attention_expanded_scratch(max_context, max_tokens, nope, v, type, pool_.threads());
  }
  int64_t AttentionAbsorbedScratch(int64_t max_context) const override {
    return ops_.attention_absorbed_scratch(max_context, pool_.threads());
  }

 protected:
  absl::Status DoEmbed(const EmbedArgs& args) override { return Call(ops_.embed, args); }
  absl::Status DoRmsNorm(const RmsNormArgs& args) override { return Call(ops_.rms_norm, args); }
  absl::Status DoMatMul(const MatMulArgs& args) override { return Call(ops_.matmul, args); }
  absl::Status DoGroupedMatMul(const GroupedMatMulArgs& args) override {
    return Call(ops_.grouped_matmul, args);
  }
  absl::Status DoQuantize(const QuantizeArgs& args) override { return Call(ops_.quantize, args); }
  absl::Status DoRope(const RopeArgs& args) override { return Call(ops_.rope, args); }
  absl::Status DoCacheWrite(const CacheWriteArgs& args) override {
    return Call(ops_.cache_write, args);
  }
  absl::Status DoAttentionExpanded(const AttentionExpandedArgs& args) override {
    return Call(ops_.attention_expanded, args);
  }
  absl::Status DoAttentionAbsorbed(const AttentionAbsorbedArgs& args) override {
    return Call(ops_.attention_absorbed, args);
  }
  absl::Status DoSwiGlu(const SwiGluArgs& args) override { return Call(ops_.swiglu, args); }
  absl::Status DoRoute(const RouteArgs& args) override { return Call(ops_.route, args); }
  absl::Status DoExpertCombine(const ExpertCombineArgs& args) override {
    return Call(ops_.expert_combine, args);
  }
  absl::Status DoTreeAdd(const TreeAddArgs& args) override { return Call(ops_.tree_add, args); }
  absl::Status DoCast(const CastArgs& args) override { return Call(ops_.cast, args); }
  absl::Status DoSample(const SampleArgs& args) override { return Call(ops_.sample, args); }
  absl::Status DoSampleFiltered(const SampleFilteredArgs& args) override {
    return Call(ops_.sample_filtered, args);
  }

 private:
  template <typename Args>
  absl::Status Call(void (*op)(const Args&, cpu::ThreadPool&), const Args& args) {
    op(args, pool_);
    return absl::OkStatus();
  }

  const IsaPath path_;
  const cpu::OpTable& ops_;
  cpu::ThreadPool pool_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuOptions& options) {
  if (options.threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("CPU backend: threads: expected at least 1, found ", options.threads));
  }
  ASSIGN_OR_RETURN(const IsaPath path, ChoosePath(options.isa));
  return std::make_unique<CpuBackend>(path, options.threads);
}

}  // namespace whalepod
