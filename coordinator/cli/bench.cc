// whalepod bench: speed of a deployment as its clients see it, and of batch-1 decode against what
// this machine's memory allows.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/cli/client.h"
#include "coordinator/cli/commands.h"
#include "coordinator/cli/decode_bytes.h"
#include "coordinator/cli/local_workers.h"
#include "coordinator/cli/read_bandwidth.h"
#include "coordinator/options.h"
#include "coordinator/server.h"
#include "nlohmann/json.hpp"

namespace whalepod {
namespace {

using Seconds = std::chrono::duration<double>;

constexpr auto kReadyWithin = std::chrono::minutes(30);
constexpr auto kLeave = std::chrono::seconds(5);

struct Flags {
  ServeOptions serve;
  std::string endpoint;  // empty: a deployment of its own
  int num_prompts = 4;
  int concurrency = 1;
  int input_len = 64;
  int output_len = 128;
  int warmup = 1;
  uint64_t seed = 1;
  bool json = false;
};

// A deployment in this process with workers of its own.
class OwnDeployment {
 public:
  OwnDeployment() = default;
  OwnDeployment(const OwnDeployment&) = delete;
  OwnDeployment& operator=(const OwnDeployment&) = delete;
  ~OwnDeployment() {
    if (!running_.joinable()) return;
    server_->Stop();
    running_.join();
    workers_.Wait(kLeave);
  }

  absl::Status Start(const ServeOptions& options) {
    signal(SIGPIPE, SIG_IGN);
    ASSIGN_OR_RETURN(const std::string binary, WorkerBinary());
    ASSIGN_OR_RETURN(server_, CoordinatorServer::Start(options));
    RETURN_IF_ERROR(workers_.Start(
        {.binary = binary,
         .coordinator = absl::StrCat("127.0.0.1:", server_->control_port()),
         .ranks = server_->ranks(),
         .threads = static_cast<int>(server_->plan().runtime().threads_per_rank())}));
    running_ = std::thread([this] {
      const absl::Status end = server_->Run();
      if (!end.ok()) spdlog::error("{}", end.ToString());
    });
    return absl::OkStatus();
  }
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", server_->grpc_port()); }

 private:
  std::unique_ptr<CoordinatorServer> server_;
  LocalWorkers workers_;
  std::thread running_;
};

// One request: seconds from its start.
struct Timing {
  double first = 0;  // to the first token
  double last = 0;
  std::vector<double> gaps;  // between tokens
};

double Percentile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(std::lround(part * static_cast<double>(values.size() - 1)))];
}

struct Figures {
  double seconds = 0;
  int64_t tokens = 0;
  std::vector<double> first, per_token, gaps;
};

v1::GenerateRequest MakeRequest(const Flags& flags, uint32_t vocab, int index) {
  v1::GenerateRequest request;
  // Modulo and not a distribution: the same prompts with every standard library.
  std::mt19937_64 random(flags.seed * 1'000'003 + static_cast<uint64_t>(index));
  for (int i = 0; i < flags.input_len; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<uint32_t>(random() % vocab));
  }
  request.mutable_options()->set_max_tokens(static_cast<uint32_t>(flags.output_len));
  request.mutable_options()->set_ignore_eos(true);
  request.mutable_options()->set_temperature(0);
  return request;
}

absl::StatusOr<Timing> RunOne(Client& client, const v1::GenerateRequest& request) {
  Timing timing;
  const auto start = std::chrono::steady_clock::now();
  bool any = false;
  const auto on_token = [&] {
    const double now = Seconds(std::chrono::steady_clock::now() - start).count();
    if (any) {
      timing.gaps.push_back(now - timing.last);
    } else {
      timing.first = now;
    }
    any = true;
    timing.last = now;
  };
  const auto on_tokens = [&](const v1::GenerateResponse::Tokens& tokens) {
    for (int i = 0; i < tokens.tokens_size(); ++i) on_token();
  };
  RETURN_IF_ERROR(client.Generate(request, on_tokens).status());
  if (!any) return absl::InternalError("a request ended without a token");
  return timing;
}

// Requests [first, first + count), `concurrency` at a time.
absl::StatusOr<Figures> RunAll(const Flags& flags, Client& client, uint32_t vocab, int first,
                               int count) {
  std::mutex mu;
  Figures figures;
  absl::Status error;
  std::atomic<int> next{0};
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> clients;
  for (int c = 0; c < std::min(flags.concurrency, count); ++c) {
    clients.emplace_back([&] {
      for (int i = next++; i < count; i = next++) {
        const absl::StatusOr<Timing> timing = RunOne(client, MakeRequest(flags, vocab, first + i));
        const std::lock_guard lock(mu);
        error.Update(timing.status());
        if (!error.ok()) return;
        const size_t gaps = timing->gaps.size();
        figures.tokens += static_cast<int64_t>(gaps) + 1;
        figures.first.push_back(timing->first);
        if (gaps == 0) continue;
        figures.per_token.push_back((timing->last - timing->first) / static_cast<double>(gaps));
        figures.gaps.insert(figures.gaps.end(), timing->gaps.begin(), timing->gaps.end());
      }
    });
  }
  for (std::thread& thread : clients) thread.join();
  if (!error.ok()) return error;
  figures.seconds = Seconds(std::chrono::steady_clock::now() - start).count();
  return figures;
}

struct Bound {
  DecodeBytes bytes;
  double total = 0;              // of a token in the middle of the output
  double before = 0, after = 0;  // read bandwidth, bytes a second

  // Of batch-1 decode, tokens a second. By the faster of both measurements, the stricter one.
  double TokensPerSecond() const { return std::max(before, after) / total; }
};

struct Report {
  std::string layout;
  double ready = 0;  // seconds from the start of an own deployment
  Figures figures;
  std::optional<Bound> bound;
  int threads = 0;
};

// What part of the bound one running request reaches; 0 with more of them, which share weights.
double OfBound(const Flags& flags, const Report& report) {
  const double per_token = Percentile(report.figures.per_token, 0.5);
  if (!report.bound || flags.concurrency != 1 || per_token <= 0) return 0;
  return 1 / per_token / report.bound->TokensPerSecond();
}

void PrintText(const Flags& flags, const Report& report) {
  const auto line = [](const std::string& name, const std::vector<double>& seconds) {
    absl::PrintF("%-24s p50 %9.2f ms   p90 %9.2f ms\n", name.c_str(),
                 1e3 * Percentile(seconds, 0.5), 1e3 * Percentile(seconds, 0.9));
  };
  const Figures& f = report.figures;
  absl::PrintF("layout                   %s\n", report.layout.c_str());
  if (report.ready > 0) absl::PrintF("ready after              %.2f s\n", report.ready);
  absl::PrintF("requests                 %d of %d + %d tokens, %d at a time\n", flags.num_prompts,
               flags.input_len, flags.output_len, flags.concurrency);
  line("time to first token", f.first);
  line("time per output token", f.per_token);
  line("between two tokens", f.gaps);
  absl::PrintF("output                   %.1f tokens/s\n",
               static_cast<double>(f.tokens) / f.seconds);
  if (!report.bound) return;
  const Bound& b = *report.bound;
  absl::PrintF("read bandwidth           %.2f GB/s before, %.2f GB/s after (%d threads)\n",
               b.before / 1e9, b.after / 1e9, report.threads);
  absl::PrintF("bytes of a token         %.0f: FP8 %d, BF16/F16 %d, F32 %d, KV %d x context\n",
               b.total, b.bytes.fp8, b.bytes.half, b.bytes.f32, b.bytes.kv_per_position);
  absl::PrintF("bound of batch-1 decode  %.1f tokens/s\n", b.TokensPerSecond());
  if (const double part = OfBound(flags, report); part > 0) {
    absl::PrintF("reached                  %.3f of the bound\n", part);
  }
}

void PrintJson(const Flags& flags, const Report& report) {
  const auto both = [](const std::vector<double>& seconds) {
    return nlohmann::json{{"p50", 1e3 * Percentile(seconds, 0.5)},
                          {"p90", 1e3 * Percentile(seconds, 0.9)}};
  };
  const Figures& f = report.figures;
  nlohmann::json json = {{"layout", report.layout},
                         {"num_prompts", flags.num_prompts},
                         {"concurrency", flags.concurrency},
                         {"input_len", flags.input_len},
                         {"output_len", flags.output_len},
                         {"ttft_ms", both(f.first)},
                         {"time_per_output_token_ms", both(f.per_token)},
                         {"inter_token_ms", both(f.gaps)},
                         {"output_tokens_per_second", static_cast<double>(f.tokens) / f.seconds}};
  if (report.ready > 0) json["ready_seconds"] = report.ready;
  if (report.bound) {
    const Bound& b = *report.bound;
    json["read_bytes_per_second"] = {{"before", b.before}, {"after", b.after}};
    json["token_bytes"] = b.total;
    json["bound_tokens_per_second"] = b.TokensPerSecond();
    if (const double part = OfBound(flags, report); part > 0) json["of_bound"] = part;
  }
  absl::PrintF("%s\n", json.dump().c_str());
}

// The bound of the checkpoint in the options; nothing where none is named.
absl::StatusOr<std::optional<Bound>> MakeBound(const Flags& flags) {
  if (flags.serve.model.empty()) return std::nullopt;
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(flags.serve.model));
  ASSIGN_OR_RETURN(const PlanRequest request, MakePlanRequest(flags.serve, checkpoint));
  Bound bound;
  const bool f32_cache = request.runtime.compute_dtype() == v1::DTYPE_F32;
  bound.bytes =
      BytesPerToken(checkpoint.model, &checkpoint, f32_cache ? v1::DTYPE_F32 : v1::DTYPE_BF16);
  bound.total = static_cast<double>(
      bound.bytes.Total(flags.input_len + static_cast<double>(flags.output_len) / 2));
  return bound;
}

absl::StatusOr<Report> Measure(const Flags& flags) {
  Report report;
  report.threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ASSIGN_OR_RETURN(report.bound, MakeBound(flags));
  OwnDeployment own;
  const auto start = std::chrono::steady_clock::now();
  // --api-key is what a running deployment asks for; one's own asks for none.
  ServeOptions serve = flags.serve;
  const std::vector<std::string> keys = std::exchange(serve.api_keys, {});
  if (flags.endpoint.empty()) RETURN_IF_ERROR(own.Start(serve));
  Client client(flags.endpoint.empty() ? own.endpoint() : flags.endpoint,
                keys.empty() ? "" : keys.front());
  RETURN_IF_ERROR(client.WaitReady(kReadyWithin));
  if (flags.endpoint.empty()) {
    report.ready = Seconds(std::chrono::steady_clock::now() - start).count();
  }
  ASSIGN_OR_RETURN(const v1::GetModelResponse model, client.GetModel());
  report.layout = model.layout();
  RETURN_IF_ERROR(
      RunAll(flags, client, model.vocab_size(), flags.num_prompts, flags.warmup).status());
  if (report.bound) report.bound->before = MeasureReadBandwidth(report.threads);
  ASSIGN_OR_RETURN(report.figures, RunAll(flags, client, model.vocab_size(), 0, flags.num_prompts));
  if (report.bound) report.bound->after = MeasureReadBandwidth(report.threads);
  return report;
}

int Bench(const Flags& flags) {
  InitLogging("coordinator");
  spdlog::set_level(spdlog::level::warn);
  if (flags.endpoint.empty() && flags.serve.model.empty()) {
    return ReportError(absl::InvalidArgumentError("give a checkpoint folder, or --endpoint"));
  }
  const absl::StatusOr<Report> report = Measure(flags);
  if (!report.ok()) return ReportError(report.status());
  flags.json ? PrintJson(flags, *report) : PrintText(flags, *report);
  return 0;
}

}  // namespace

void AddBench(CLI::App& app, CommandRun& run) {
  const auto flags = std::make_shared<Flags>();
  flags->serve.port = 0;
  flags->serve.grpc_port = 0;
  flags->serve.control_port = 0;
  CLI::App* command = app.add_subcommand(
      "bench", "Measure a deployment: one of its own for MODEL, or a running one");
  AddServeOptions(*command, flags->serve);
  command->get_option("MODEL")->required(false)->description(
      "checkpoint folder; with --endpoint only for the bandwidth bound");
  command->add_option("--endpoint", flags->endpoint, "a running deployment, host:port");
  const auto count = [&](const std::string& name, int& value, int least, const std::string& text) {
    command->add_option(name, value, text)
        ->check(CLI::Range(least, 1 << 20))
        ->capture_default_str();
  };
  count("--num-prompts", flags->num_prompts, 1, "requests that are timed");
  count("--concurrency", flags->concurrency, 1, "requests at a time");
  count("--input-len", flags->input_len, 1, "random tokens of a prompt");
  count("--output-len", flags->output_len, 1, "tokens generated, whatever they are");
  count("--warmup", flags->warmup, 0, "requests before those");
  command->add_option("--seed", flags->seed, "of the prompts")->capture_default_str();
  command->add_flag("--json", flags->json, "one JSON object");
  const CLI::App* const serve = AddBenchServe(*command, run);
  command->callback([flags, serve, &run] {
    if (!serve->parsed()) run = [flags] { return Bench(*flags); };
  });
}

}  // namespace whalepod
