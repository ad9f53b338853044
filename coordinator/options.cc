#include "coordinator/options.h"

#include <algorithm>
#include <cctype>
#include <thread>

#include "absl/strings/str_cat.h"

namespace whalepod {
namespace {

// "--max-model-len" also listens to WHALEPOD_MAX_MODEL_LEN; the flag wins.
CLI::Option* WithEnvironment(CLI::Option* option) {
  std::string name = option->get_single_name();
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return option->envname("WHALEPOD_" + name);
}

template <typename T>
CLI::Option* Add(CLI::App& app, const std::string& flag, T& value, const std::string& help) {
  return WithEnvironment(app.add_option(flag, value, help))->capture_default_str();
}

void AddLayout(CLI::App& app, ServeOptions& o) {
  const auto degree = CLI::Range(1, 4096);
  Add(app, "--tensor-parallel-size,--tp", o.tensor_parallel_size, "ranks that share attention")
      ->check(degree);
  Add(app, "--data-parallel-size,--dp", o.data_parallel_size,
      "groups of ranks with requests of their own")
      ->check(degree);
  WithEnvironment(app.add_flag("--enable-expert-parallel", o.enable_expert_parallel,
                               "whole experts on each rank: expert parallel size = tp x dp"));
  Add(app, "--expert-parallel-size,--ep", o.expert_parallel_size,
      "groups of ranks with experts of their own; 0: 1, or as the other flags say")
      ->check(CLI::Range(0, 4096));
  Add(app, "--moe-tensor-parallel-size,--moe-tp", o.moe_tensor_parallel_size,
      "ranks that share an expert; 0: what is left")
      ->check(CLI::Range(0, 4096));
}

void AddSizes(CLI::App& app, ServeOptions& o) {
  Add(app, "--dtype", o.dtype,
      "input type of products and of the KV cache; auto: float32 for a float32 checkpoint, else "
      "bfloat16")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}));
  Add(app, "--activation-quant", o.activation_quant,
      "inputs of FP8 products: as they are, or quantised to FP8 too")
      ->check(CLI::IsMember({"none", "fp8"}));
  Add(app, "--max-model-len", o.max_model_len,
      "tokens of one sequence, prompt and output; 0: as many as fit")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  Add(app, "--max-num-seqs", o.max_num_seqs, "sequences running at once in a DP group; 0: 16")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 16));
  Add(app, "--max-num-batched-tokens", o.max_num_batched_tokens,
      "tokens of one step in a DP group; 0: a prefill chunk of 512 beside a full batch")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20));
  Add(app, "--kv-cache-bytes", o.kv_cache_bytes, "KV cache of a host, e.g. 2GiB; 0: 512 MiB")
      ->transform(CLI::AsSizeValue(false));
  Add(app, "--threads-per-rank", o.threads_per_rank, "threads that compute in a worker; 0: chosen")
      ->check(CLI::Range(int64_t{0}, int64_t{1024}));
  Add(app, "--max-waiting", o.max_waiting, "requests that may queue")
      ->check(CLI::Range(1, 1 << 20));
  Add(app, "--max-waiting-tokens", o.max_waiting_tokens, "prompt tokens that may queue")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40));
  WithEnvironment(app.add_flag("--enable-prefix-caching,!--no-enable-prefix-caching",
                               o.enable_prefix_caching,
                               "keep the KV cache of prompts for those that begin alike"));
  Add(app, "--priority-ageing", o.priority_ageing,
      "seconds of waiting that make up for one point of priority")
      ->check(CLI::Range(0.001, 1e6));
  Add(app, "--min-prefill-chunk", o.min_prefill_chunk,
      "a prompt is cut into pieces of at least this many tokens")
      ->check(CLI::Range(1, 1 << 20))
      ->group("Testing");
}

void AddPlaces(CLI::App& app, ServeOptions& o) {
  Add(app, "--host", o.host, "address to listen on; 0.0.0.0 for all");
  Add(app, "--port", o.port, "HTTP, for clients; 0: any free one")->check(CLI::Range(0, 65535));
  Add(app, "--grpc-port", o.grpc_port, "gRPC, for clients; 0: any free one")
      ->check(CLI::Range(0, 65535));
  Add(app, "--control-port", o.control_port, "for workers; 0: any free one")
      ->check(CLI::Range(0, 65535));
  WithEnvironment(app.add_option("--api-key", o.api_keys,
                                 "KEY or NAME:KEY that clients must show; may be given several "
                                 "times, in the environment with commas between"))
      ->delimiter(',')
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  Add(app, "--usage-admin", o.usage_admin,
      "name of the API key that sees the usage of all keys; empty: each sees its own");
  Add(app, "--price-file", o.price_file,
      "JSON: dollars for a million tokens, cached_input, input and output; empty: 0.14, 0.55, "
      "2.19");
  Add(app, "--state-dir", o.state_dir,
      "folder that keeps epoch number, jobs, resumable requests and usage over restarts");
  Add(app, "--jobs-db", o.jobs_db,
      "file that keeps jobs; empty: jobs.db in --state-dir, without which jobs are refused");
  Add(app, "--job-retention-days", o.job_retention_days,
      "days that jobs and their results are kept after their end; 0: for good")
      ->check(CLI::Range(0.0, 36500.0));
  Add(app, "--resume-window", o.resume_window,
      "seconds that a resumable request is kept, or goes on, while nobody reads it")
      ->check(CLI::Range(0.001, 1e9));
  Add(app, "--max-resumable", o.max_resumable,
      "resumable requests that are kept of one API key, or, without keys, in all; 0: no limit");
  Add(app, "--jobs-in-flight", o.jobs_in_flight, "items of jobs that the engine has at once")
      ->check(CLI::Range(1, 1 << 16));
  const auto seconds = CLI::Range(0.001, 1e6);
  Add(app, "--join-timeout", o.join_timeout, "seconds until all workers are here")->check(seconds);
  Add(app, "--plan-timeout", o.plan_timeout, "seconds until all hold the plan")->check(seconds);
  Add(app, "--load-timeout", o.load_timeout, "seconds until all have loaded")->check(seconds);
  Add(app, "--connect-timeout", o.connect_timeout, "seconds until all are connected")
      ->check(seconds);
  Add(app, "--warm-timeout", o.warm_timeout, "seconds until all have run an empty step")
      ->check(seconds);
  Add(app, "--heartbeat-timeout", o.heartbeat_timeout, "seconds of silence that are a rank's death")
      ->check(seconds);
  Add(app, "--step-stall", o.step_stall,
      "seconds a step may take at least (or 10 times what is predicted, if that is more)")
      ->check(seconds);
  Add(app, "--drain-timeout", o.drain_timeout,
      "seconds that running requests may take after SIGTERM")
      ->check(CLI::Range(0.0, 1e6));
}

}  // namespace

void AddServeOptions(CLI::App& app, ServeOptions& options) {
  app.add_option("MODEL", options.model, "checkpoint folder")
      ->required()
      ->envname("WHALEPOD_MODEL");
  Add(app, "--served-model-name", options.served_model_name,
      "the model's name for clients; empty: the folder's");
  WithEnvironment(app.add_option("--log-format", options.log_format,
                                 "lines of the log, also of workers started here: text or json"))
      ->transform(CLI::CheckedTransformer(LogFormats()));
  AddLayout(app, options);
  AddSizes(app, options);
  AddPlaces(app, options);
}

absl::StatusOr<PlanRequest> MakePlanRequest(const ServeOptions& options,
                                            const Checkpoint& checkpoint) {
  PlanRequest request;
  request.model = checkpoint.model;
  request.checkpoint = &checkpoint;
  request.dp = options.data_parallel_size;
  request.tp = options.tensor_parallel_size;
  request.ep = options.expert_parallel_size;
  request.moe_tp = options.moe_tensor_parallel_size;
  if (options.enable_expert_parallel) {
    if (request.ep != 0 && request.ep != options.ranks()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--enable-expert-parallel means --expert-parallel-size ", options.ranks(),
                       ", which is given as ", request.ep));
    }
    request.ep = options.ranks();
  }
  if (options.dtype != "auto") {
    request.runtime.set_compute_dtype(options.dtype == "float32" ? v1::DTYPE_F32 : v1::DTYPE_BF16);
  }
  request.runtime.set_activation_quant(
      options.activation_quant == "fp8" ? v1::ACTIVATION_QUANT_FP8 : v1::ACTIVATION_QUANT_NONE);
  request.runtime.set_max_model_len(options.max_model_len);
  request.runtime.set_max_num_seqs(options.max_num_seqs);
  request.runtime.set_max_num_batched_tokens(options.max_num_batched_tokens);
  request.runtime.set_threads_per_rank(options.threads_per_rank);
  request.processors_per_host = std::thread::hardware_concurrency();
  request.kv_bytes_per_host = static_cast<int64_t>(options.kv_cache_bytes);
  return request;
}

}  // namespace whalepod
