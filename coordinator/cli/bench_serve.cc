// whalepod bench serve: a load on a running deployment, as its clients make it.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status.h"
#include "coordinator/cli/bench/arrivals.h"
#include "coordinator/cli/bench/html_report.h"
#include "coordinator/cli/bench/http_target.h"
#include "coordinator/cli/bench/load.h"
#include "coordinator/cli/bench/load_report.h"
#include "coordinator/cli/bench/workload.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/client_flags.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/grpc_target.h"
#include "coordinator/cli/prompts.h"

namespace whalepod {
namespace {

// Ids that any vocabulary has, for servers that don't say how many they have.
constexpr uint32_t kCommonIds = 256;

struct Flags : EndpointFlag {
  std::string base_url;  // empty: gRPC
  std::string model;
  double wait = 60;  // seconds
  int num_prompts = 1000, warmup = 0;
  std::string request_rate = "inf";
  double burstiness = 1;
  size_t max_concurrency = 0;
  std::string dataset_name = "random", dataset_path;
  RandomWorkload random{.input_len = 1024, .output_len = 128};
  int64_t custom_output_len = 256;
  uint64_t seed = 0;
  bool ignore_eos = false;
  float temperature = 0;
  std::string metrics = "ttft,tpot,itl,e2el", percentiles = "90,99";
  std::vector<std::string> goodput;
  std::string save_result, html;
};

struct Target {
  std::unique_ptr<LoadTarget> target;
  uint32_t vocab_size = 0;
  std::string model;
};

absl::StatusOr<Target> Connect(const Flags& flags) {
  const auto wait = std::chrono::duration_cast<Duration>(std::chrono::duration<double>(flags.wait));
  if (!flags.base_url.empty()) {
    ASSIGN_OR_RETURN(std::unique_ptr<HttpTarget> http,
                     HttpTarget::Connect({.base_url = flags.base_url,
                                          .api_key = flags.api_key,
                                          .model = flags.model,
                                          .wait = wait}));
    const std::string model = http->model();
    return Target{std::move(http), kCommonIds, model};
  }
  const std::shared_ptr<grpc::Channel> channel = Dial(flags.endpoint, flags.api_key);
  Client client(v1::InferenceService::NewStub(channel));
  RETURN_IF_ERROR(client.WaitReady(wait));
  ASSIGN_OR_RETURN(const v1::GetModelResponse model, client.GetModel());
  return Target{std::make_unique<GrpcTarget>(channel), model.vocab_size(), model.model()};
}

// As many as are timed, then those to warm up with.
absl::StatusOr<std::vector<v1::GenerateRequest>> MakeRequests(const Flags& flags,
                                                              const Target& target) {
  const size_t count = static_cast<size_t>(flags.num_prompts) + static_cast<size_t>(flags.warmup);
  std::vector<v1::GenerateRequest> requests;
  if (flags.dataset_name == "random") {
    RandomWorkload workload = flags.random;
    workload.count = count;
    workload.seed = flags.seed;
    if (workload.vocab_size == 0) workload.vocab_size = target.vocab_size;
    requests = RandomRequests(workload);
  } else {
    std::ifstream file(flags.dataset_path);
    if (!file) return absl::NotFoundError(flags.dataset_path + " can't be opened");
    ASSIGN_OR_RETURN(requests, ReadPrompts(file, flags.dataset_path));
    const size_t found = requests.size();
    requests.resize(count);
    for (size_t i = 0; i < count; ++i) {
      if (i >= found) requests[i] = requests[i - found];
      requests[i].mutable_options()->set_max_tokens(static_cast<uint32_t>(flags.custom_output_len));
    }
  }
  for (size_t i = 0; i < count; ++i) {
    v1::GenerationOptions& options = *requests[i].mutable_options();
    requests[i].set_model(flags.model);
    options.set_temperature(flags.temperature);
    options.set_seed(flags.seed + i);
    if (flags.ignore_eos) options.set_ignore_eos(true);
  }
  return requests;
}

absl::StatusOr<double> ParseRate(const std::string& text) {
  double rate = 0;
  if (!absl::SimpleAtod(text, &rate) || !(rate > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--request-rate: expected a number above 0 or inf, found \"", text, "\""));
  }
  return rate;
}

absl::StatusOr<std::vector<double>> ParsePercentiles(const std::string& text) {
  std::vector<double> percents;
  for (const absl::string_view item : absl::StrSplit(text, ',')) {
    double percent = 0;
    if (!absl::SimpleAtod(item, &percent) || !(percent >= 0 && percent <= 100)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--metric-percentiles: expected numbers from 0 to 100, found \"", item, "\""));
    }
    percents.push_back(percent);
  }
  return percents;
}

absl::Status CheckFlags(const Flags& flags) {
  if (flags.dataset_name == "file" && flags.dataset_path.empty()) {
    return absl::InvalidArgumentError("--dataset-name file needs --dataset-path");
  }
  if (flags.dataset_name == "random" && !flags.dataset_path.empty()) {
    return absl::InvalidArgumentError("--dataset-path needs --dataset-name file");
  }
  if (!(flags.burstiness > 0 && std::isfinite(flags.burstiness))) {
    return absl::InvalidArgumentError("--burstiness: expected a finite number above 0");
  }
  if (!(flags.random.range_ratio >= 0 && flags.random.range_ratio < 1)) {
    return absl::InvalidArgumentError("--random-range-ratio: expected at least 0 and below 1");
  }
  return absl::OkStatus();
}

nlohmann::ordered_json Settings(const Flags& flags, const Target& target) {
  nlohmann::ordered_json settings = {
      {"backend", flags.base_url.empty() ? "whalepod-grpc" : "openai"},
      {"endpoint", flags.base_url.empty() ? flags.endpoint : flags.base_url},
      {"model_id", target.model},
      {"num_prompts", flags.num_prompts},
      {"request_rate", flags.request_rate},
      {"burstiness", flags.burstiness},
      {"max_concurrency", nullptr},
      {"dataset_name", flags.dataset_name},
      {"seed", flags.seed},
      {"temperature", flags.temperature},
      {"ignore_eos", flags.ignore_eos},
      {"warmup", flags.warmup}};
  if (flags.max_concurrency > 0) settings["max_concurrency"] = flags.max_concurrency;
  if (flags.dataset_name == "random") {
    settings["random_input_len"] = flags.random.input_len;
    settings["random_output_len"] = flags.random.output_len;
    settings["random_range_ratio"] = flags.random.range_ratio;
    settings["random_prefix_len"] = flags.random.prefix_len;
  } else {
    settings["dataset_path"] = flags.dataset_path;
    settings["custom_output_len"] = flags.custom_output_len;
  }
  if (!flags.goodput.empty()) settings["goodput"] = flags.goodput;
  return settings;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
  file.close();
  if (!file) return absl::UnavailableError(path + " can't be written");
  return absl::OkStatus();
}

absl::Status WarmUp(const Flags& flags, LoadTarget& target,
                    std::vector<v1::GenerateRequest> requests) {
  const std::vector<double> at_once(requests.size(), 0.0);
  const LoadRun run = RunLoad(target, requests, at_once, flags.max_concurrency);
  for (const LoadRecord& record : run.records) {
    if (record.completed()) continue;
    return absl::UnavailableError(
        absl::StrCat("warm-up: a request failed: ", record.failure, ": ", record.message));
  }
  return absl::OkStatus();
}

absl::StatusOr<LoadReport> Measure(const Flags& flags) {
  RETURN_IF_ERROR(CheckFlags(flags));
  ASSIGN_OR_RETURN(const double rate, ParseRate(flags.request_rate));
  ASSIGN_OR_RETURN(const std::vector<double> percents, ParsePercentiles(flags.percentiles));
  LoadReport report;
  ASSIGN_OR_RETURN(report.goals, ParseGoals(flags.goodput));
  ASSIGN_OR_RETURN(report.metrics, ParseMetrics(flags.metrics));
  ASSIGN_OR_RETURN(const Target target, Connect(flags));
  ASSIGN_OR_RETURN(std::vector<v1::GenerateRequest> requests, MakeRequests(flags, target));
  const auto timed = requests.begin() + flags.num_prompts;
  RETURN_IF_ERROR(WarmUp(flags, *target.target, {timed, requests.end()}));
  requests.erase(timed, requests.end());
  report.settings = Settings(flags, target);
  report.run = RunLoad(*target.target, requests,
                       ArrivalTimes({.count = requests.size(),
                                     .rate = rate,
                                     .burstiness = flags.burstiness,
                                     .seed = flags.seed}),
                       flags.max_concurrency);
  report.figures = MakeFigures(report.run.records, report.run.duration, percents, report.goals);
  return report;
}

absl::Status Save(const Flags& flags, const LoadReport& report) {
  if (!flags.save_result.empty()) {
    // Messages of servers may not be UTF-8.
    const std::string json =
        ReportJson(report).dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    RETURN_IF_ERROR(WriteFile(flags.save_result, json + "\n"));
  }
  if (!flags.html.empty()) RETURN_IF_ERROR(WriteFile(flags.html, ReportHtml(report)));
  return absl::OkStatus();
}

int BenchServe(const Flags& flags) {
  const absl::StatusOr<LoadReport> report = Measure(flags);
  if (!report.ok()) return ReportError(report.status());
  std::printf("%s", ReportTable(*report).c_str());
  if (const absl::Status saved = Save(flags, *report); !saved.ok()) return ReportError(saved);
  return report->figures.completed > 0 ? 0 : kFailed;
}

void DeclareLoad(CLI::App* command, Flags* flags) {
  const CLI::Range positive(1, 1 << 30), natural(0, 1 << 30);
  command->add_option("--num-prompts", flags->num_prompts, "requests that are timed")
      ->check(positive)
      ->capture_default_str();
  command->add_option("--request-rate", flags->request_rate, "requests a second; inf: all at once")
      ->capture_default_str();
  command
      ->add_option("--burstiness", flags->burstiness,
                   "of the arrivals: 1 is a Poisson process, less comes in bursts")
      ->capture_default_str();
  command
      ->add_option("--max-concurrency", flags->max_concurrency,
                   "most requests under way, a thread each; 0: no limit")
      ->check(natural);
  command->add_option("--warmup", flags->warmup, "requests before those that are timed")
      ->check(natural)
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "of prompts, arrivals and sampling")
      ->capture_default_str();
  command->add_flag("--ignore-eos", flags->ignore_eos, "go on after the end of sequence");
  command->add_option("--temperature", flags->temperature, "0 is greedy")->capture_default_str();
}

void DeclareDataset(CLI::App* command, Flags* flags) {
  const CLI::Range positive(1, 1 << 30), natural(0, 1 << 30);
  command->add_option("--dataset-name", flags->dataset_name, "random token ids, or a file")
      ->check(CLI::IsMember({"random", "file"}))
      ->capture_default_str();
  command->add_option("--dataset-path", flags->dataset_path,
                      "JSON lines with messages, prompt or prompt_token_ids; begun again where "
                      "they are fewer than the prompts");
  command
      ->add_option("--custom-output-len", flags->custom_output_len,
                   "most tokens, of a file's prompts")
      ->check(positive)
      ->capture_default_str();
  const auto length = [&](const char* name, int64_t& value, const CLI::Range& range,
                          const char* text) {
    command->add_option(name, value, text)->check(range)->capture_default_str();
  };
  RandomWorkload& random = flags->random;
  length("--random-input-len", random.input_len, positive, "tokens of a prompt after the prefix");
  length("--random-output-len", random.output_len, positive, "most tokens of an answer");
  length("--random-prefix-len", random.prefix_len, natural, "tokens that all prompts begin with");
  command
      ->add_option("--random-range-ratio", random.range_ratio,
                   "lengths are between 1 - this and 1 + this times those")
      ->capture_default_str();
  command
      ->add_option("--random-vocab-size", random.vocab_size,
                   absl::StrCat("ids are below it; default the model's, over HTTP ", kCommonIds))
      ->check(positive);
}

}  // namespace

CLI::App* AddBenchServe(CLI::App& bench, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      bench.add_subcommand("serve", "Put a load on a running deployment; docs/benchmarking.md");
  flags->Declare(command);
  command->add_option("--base-url", flags->base_url,
                      "http://HOST:PORT of a server with OpenAI's API, instead of --endpoint");
  command->add_option("--model", flags->model, "name of the model; default the one served");
  command->add_option("--wait", flags->wait, "seconds to wait for a ready deployment")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  DeclareLoad(command, flags.get());
  DeclareDataset(command, flags.get());
  command->add_option("--percentile-metrics", flags->metrics, "the latencies to report")
      ->capture_default_str();
  command->add_option("--metric-percentiles", flags->percentiles, "of each latency: 50,90,99.9")
      ->capture_default_str();
  command->add_option("--goodput", flags->goodput,
                      "what makes a request good: ttft:MS tpot:MS e2el:MS, any of them");
  command->add_option("--save-result", flags->save_result, "write the figures to this file, JSON");
  command->add_option("--html", flags->html, "write a report with plots to this file");
  command->callback([flags, &run] { run = [flags] { return BenchServe(*flags); }; });
  return command;
}

}  // namespace whalepod
