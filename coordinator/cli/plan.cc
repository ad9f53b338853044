// whalepod plan: the sharding dry-run, for a checkpoint or a preset.
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/plan/catalogue.h"
#include "coordinator/plan/planner.h"
#include "coordinator/plan/presets.h"
#include "proto/plan/render.h"
#include "proto/plan/validate.h"

namespace whalepod {
namespace {

struct Flags {
  std::string model;
  std::string gpus;
  int ranks = 0;
  int tp = 0, dp = 0, ep = 0, moe_tp = 0, pp = 1;
  int64_t max_model_len = 0, max_num_seqs = 0, max_num_batched_tokens = 0;
  double gpu_memory_utilization = 0.9;
  v1::DType dtype = v1::DTYPE_UNSPECIFIED;  // the checkpoint's
  v1::ActivationQuant activation_quant = v1::ACTIVATION_QUANT_NONE;
  bool json = false;
};

// Hosts of GPUs, or one host with a CPU rank for each of --ranks.
absl::Status FillHosts(const Flags& flags, PlanRequest& request) {
  if (!flags.gpus.empty()) {
    request.gpu = true;
    ASSIGN_OR_RETURN(request.hosts, ParseGpus(flags.gpus));
    return absl::OkStatus();
  }
  if (flags.ranks > 0) {
    v1::Host& host = request.hosts.emplace_back();
    host.set_name("localhost");
    host.set_device_name("cpu");
    host.set_devices(flags.ranks);
  }
  return absl::OkStatus();
}

int Devices(const std::vector<v1::Host>& hosts) {
  int devices = 0;
  for (const v1::Host& host : hosts) devices += host.devices();
  return devices;
}

// Degrees not given follow from the devices: attention is split within a host and repeated over
// hosts.
absl::Status FillDegrees(const Flags& flags, PlanRequest& request) {
  request.pp = flags.pp;
  request.ep = flags.ep;
  request.moe_tp = flags.moe_tp;
  const int devices = Devices(request.hosts);
  request.tp = flags.tp;
  request.dp = flags.dp;
  if (devices == 0) {
    request.tp = std::max(1, request.tp);
    request.dp = std::max(1, request.dp);
    return absl::OkStatus();
  }
  const int stage = devices / std::max(1, flags.pp);
  if (request.tp == 0 && request.dp == 0) request.tp = std::min(stage, request.hosts[0].devices());
  if (request.tp == 0) request.tp = stage / request.dp;
  if (request.dp == 0) request.dp = stage / std::max(1, request.tp);
  const double used = 1.0 * request.tp * request.dp * request.pp;  // may pass any integer
  if (used != devices) {
    return absl::InvalidArgumentError(absl::StrCat("tp ", request.tp, " x dp ", request.dp,
                                                   " x pp ", request.pp, " = ", used, " ranks for ",
                                                   devices, " devices"));
  }
  return absl::OkStatus();
}

void FillRuntime(const Flags& flags, v1::RuntimeSpec& runtime) {
  runtime.set_compute_dtype(flags.dtype);
  runtime.set_activation_quant(flags.activation_quant);
  runtime.set_max_model_len(flags.max_model_len);
  runtime.set_max_num_seqs(flags.max_num_seqs);
  runtime.set_max_num_batched_tokens(flags.max_num_batched_tokens);
}

absl::StatusOr<v1::ShardingPlan> MakePlanOf(const Flags& flags) {
  PlanRequest request;
  std::optional<Checkpoint> checkpoint;
  if (std::filesystem::is_directory(flags.model)) {
    ASSIGN_OR_RETURN(checkpoint, Checkpoint::Open(flags.model));
    RETURN_IF_ERROR(checkpoint->CheckScales());
    request.model = checkpoint->model;
    request.checkpoint = &*checkpoint;
  } else {
    absl::StatusOr<v1::ModelSpec> preset = Preset(flags.model);
    if (!preset.ok()) {
      return absl::NotFoundError(absl::StrCat("\"", flags.model, "\" is no checkpoint folder, and ",
                                              preset.status().message()));
    }
    request.model = *std::move(preset);
  }
  RETURN_IF_ERROR(FillHosts(flags, request));
  RETURN_IF_ERROR(FillDegrees(flags, request));
  request.gpu_memory_utilization = flags.gpu_memory_utilization;
  FillRuntime(flags, request.runtime);
  request.processors_per_host = std::thread::hardware_concurrency();
  ASSIGN_OR_RETURN(v1::ShardingPlan plan, MakePlan(request));
  if (checkpoint.has_value()) RETURN_IF_ERROR(BindPlan(*checkpoint, &plan));
  RETURN_IF_ERROR(ValidatePlan(plan));
  return plan;
}

int Plan(const Flags& flags) {
  const absl::StatusOr<v1::ShardingPlan> plan = MakePlanOf(flags);
  if (!plan.ok()) return ReportError(plan.status());
  const std::string text = flags.json ? RenderPlanJson(*plan) : RenderPlanText(*plan);
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (text.empty() || text.back() != '\n') std::fputc('\n', stdout);
  return 0;
}

}  // namespace

void AddPlan(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("plan", "What a deployment would look like");
  const auto degree = [&](const std::string& name, int& value, const std::string& text) {
    command->add_option(name, value, text)->check(CLI::PositiveNumber);
  };
  const std::map<std::string, v1::DType> dtypes = {{"bfloat16", v1::DTYPE_BF16},
                                                   {"float32", v1::DTYPE_F32}};
  const std::map<std::string, v1::ActivationQuant> quants = {{"none", v1::ACTIVATION_QUANT_NONE},
                                                             {"fp8", v1::ACTIVATION_QUANT_FP8}};
  command
      ->add_option(
          "MODEL", flags->model,
          absl::StrCat("checkpoint folder or preset (", absl::StrJoin(PresetNames(), ", "), ")"))
      ->required();
  CLI::Option* gpus = command->add_option("--gpus", flags->gpus, "devices: 16xH200, 2x8xH200");
  command->add_option("--ranks", flags->ranks, "CPU ranks on one host")
      ->check(CLI::PositiveNumber)
      ->excludes(gpus);
  degree("--tp,--tensor-parallel-size", flags->tp, "ranks that split attention");
  degree("--dp,--data-parallel-size", flags->dp, "groups that split requests");
  degree("--ep,--expert-parallel-size", flags->ep, "groups that split experts");
  degree("--moe-tp,--moe-tensor-parallel-size", flags->moe_tp, "ranks that split each expert");
  degree("--pp,--pipeline-parallel-size", flags->pp, "stages");
  command->add_option("--max-model-len", flags->max_model_len, "tokens of one sequence");
  command->add_option("--max-num-seqs", flags->max_num_seqs, "running sequences of a DP group");
  command->add_option("--max-num-batched-tokens", flags->max_num_batched_tokens,
                      "tokens of one step of a DP group");
  command->add_option("--gpu-memory-utilization", flags->gpu_memory_utilization)
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--dtype", flags->dtype, "bfloat16 or float32")
      ->transform(CLI::CheckedTransformer(dtypes));
  command->add_option("--activation-quant", flags->activation_quant, "none or fp8")
      ->transform(CLI::CheckedTransformer(quants));
  command->add_flag("--json", flags->json, "one JSON object");
  command->callback([flags, &run] { run = [flags] { return Plan(*flags); }; });
}

}  // namespace whalepod
