// How a deployment is described on a command line or by WHALEPOD_* variables. Declared once, for
// whalepod-coordinator and `whalepod serve` alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "base/log.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/plan/planner.h"

namespace whalepod {

struct ServeOptions {
  std::string model;              // a checkpoint folder
  std::string served_model_name;  // empty: the folder's name

  // Layout. 0: chosen (see PlanRequest).
  int tensor_parallel_size = 1;
  int data_parallel_size = 1;
  bool enable_expert_parallel = false;
  int expert_parallel_size = 0;
  int moe_tensor_parallel_size = 0;

  // Sizes. 0: chosen.
  std::string dtype = "auto";             // auto, bfloat16, float32
  std::string activation_quant = "none";  // none, fp8
  int64_t max_model_len = 0;
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  uint64_t kv_cache_bytes = 0;  // a host
  int64_t threads_per_rank = 0;
  uint32_t max_waiting = 1024;
  uint64_t max_waiting_tokens = 4 << 20;
  bool enable_prefix_caching = true;
  double priority_ageing = 5;  // seconds
  uint32_t min_prefill_chunk = 512;

  // Where. Port 0: any free one.
  std::string host = "127.0.0.1";
  int port = 8000;  // HTTP
  int grpc_port = 50051;
  int control_port = 50052;
  std::vector<std::string> api_keys;  // KEY or NAME:KEY; none: everybody may ask
  std::string usage_admin;            // the key's name that sees all accounts; empty: none
  std::string price_file;             // empty: R1's list prices
  std::string state_dir;              // empty: epochs and accounts are not kept
  std::string jobs_db;                // empty: jobs.db in state_dir, if there is one
  uint32_t jobs_in_flight = 32;
  double job_retention_days = 30;  // after their end; 0: for good
  LogFormat log_format = LogFormat::kText;

  // Seconds.
  double join_timeout = 60, plan_timeout = 10, load_timeout = 600, connect_timeout = 15,
         warm_timeout = 30;
  double heartbeat_timeout = 1.5;
  double step_stall = 5;
  double drain_timeout = 30;
  double resume_window = 600;
  uint32_t max_resumable = 16384;  // kept of one API key; without keys, in all

  int ranks() const { return tensor_parallel_size * data_parallel_size; }
};

// Adds the positional MODEL and all options to `app`; their values go to `options`, which outlives
// the parse.
void AddServeOptions(CLI::App& app, ServeOptions& options);

// The plan that the options ask for. INVALID_ARGUMENT names the option.
absl::StatusOr<PlanRequest> MakePlanRequest(const ServeOptions& options,
                                            const Checkpoint& checkpoint);

}  // namespace whalepod
