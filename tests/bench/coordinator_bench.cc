// The coordinator without a model behind it, at the size it is built for: 256 ranks, 8,192 running
// sequences. Scheduler/...: the scheduler alone; Coordinator/...: scheduler, engine, fleet and
// control server, with simulated ranks in a process of their own over loopback gRPC. Counters named
// of_bar are ratios to the bars of docs/performance.md; below 1 is within.
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "benchmark/benchmark.h"
#include "coordinator/fleet/control_server.h"
#include "coordinator/fleet/fleet.h"
#include "coordinator/sched/engine.h"
#include "coordinator/sched/scheduler.h"
#include "proto/plan/hash.h"
#include "tests/bench/simulated_ranks.h"
#include "tests/bench/step_model.h"

namespace whalepod {
namespace {

using SteadyClock = std::chrono::steady_clock;
using Micros = std::chrono::duration<double, std::micro>;

constexpr int kRanks = 256, kTp = 8, kGroups = kRanks / kTp;
constexpr uint32_t kRunning = 8192;
// The bars.
constexpr double kCommitMicros = 0.3;      // a token
constexpr double kStepsPerSecond = 40;     // with two cores
constexpr double kAdmissionMicros = 1000;  // of an idle deployment

double Since(SteadyClock::time_point start) { return Micros(SteadyClock::now() - start).count(); }

// CPU time of this thread: others may want the cores too.
double ThreadMicros() {
  timespec time;
  CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
  return 1e6 * static_cast<double>(time.tv_sec) + 1e-3 * static_cast<double>(time.tv_nsec);
}

// Reads 64 MiB: what comes next finds the caches the same, however much the work before it touched.
void CoolCaches() {
  static const std::vector<uint64_t> memory((64 << 20) / sizeof(uint64_t), 1);
  benchmark::DoNotOptimize(std::accumulate(memory.begin(), memory.end(), uint64_t{0}));
}

SchedulerConfig Config(uint32_t groups, uint32_t running, uint32_t prefill_tokens) {
  SchedulerConfig config;
  config.max_num_seqs = running / groups;
  config.group_blocks.assign(groups, config.max_num_seqs * 40);
  config.max_num_batched_tokens = config.max_num_seqs + prefill_tokens;
  config.max_model_len = 4096;
  config.max_waiting = 2 * running;
  config.first_step = Fleet::kFirstStep;
  return config;
}

SchedulerRequest Request(std::mt19937_64& random, uint32_t prompt_len, uint32_t max_tokens) {
  SchedulerRequest request;
  request.prompt.resize(prompt_len);
  for (uint32_t& id : request.prompt) id = static_cast<uint32_t>(random() % 100'000);
  request.sampling.set_seed(random());
  request.sampling.set_max_tokens(max_tokens);
  request.arrival = SteadyClock::now();
  return request;
}

// Prompts of 64 to 192 tokens, answers of 128 to 384.
SchedulerRequest MixedRequest(std::mt19937_64& random) {
  const auto prompt_len = static_cast<uint32_t>(64 + random() % 129);
  return Request(random, prompt_len, static_cast<uint32_t>(128 + random() % 257));
}

// NextStep when nothing changes: all sequences began together, so that in 63 of 64 steps they
// merely go on. Those steps alone are timed.
void GoesOn(benchmark::State& state) {
  const auto running = static_cast<uint32_t>(state.range(0));
  SchedulerConfig config = Config(1, std::max(1u, running), running + 512);
  const std::unique_ptr<Scheduler> scheduler = Scheduler::Create(config).value();
  StepModel model(1, config.max_num_seqs);
  std::mt19937_64 random(1);
  for (uint32_t i = 0; i < running; ++i) {
    CHECK(scheduler->Submit(Request(random, 1, 2500)).ok());
  }
  std::vector<double> times;
  for (auto _ : state) {
    for (bool timed = false; !timed;) {
      CoolCaches();
      const auto start = SteadyClock::now();
      const v1::StepPlan plan = scheduler->NextStep(start);
      const double micros = Since(start);
      timed = plan.new_sequences_size() + plan.granted_size() + plan.stopped_size() == 0;
      if (timed) {
        times.push_back(micros);
        state.SetIterationTime(micros * 1e-6);
      }
      CHECK(scheduler->Commit(plan.step(), model.Run(plan)).ok());
    }
  }
  CHECK_EQ(scheduler->Stats().running, running);
  std::sort(times.begin(), times.end());
  state.counters["median_us"] = times[times.size() / 2];
}

// A closed loop: who ends is replaced. Times NextStep by change (a sequence that starts, stops or
// gets a block) and Commit by token.
void Changes(benchmark::State& state) {
  const auto groups = static_cast<uint32_t>(state.range(0));
  const SchedulerConfig config = Config(groups, kRunning, 8192);
  const std::unique_ptr<Scheduler> scheduler = Scheduler::Create(config).value();
  StepModel model(groups, config.max_num_seqs);
  std::mt19937_64 random(2);
  for (uint32_t i = 0; i < kRunning; ++i) CHECK(scheduler->Submit(MixedRequest(random)).ok());
  double next_micros = 0, commit_micros = 0;
  int64_t changes = 0, tokens = 0;
  const auto step = [&](bool timed) {
    const double next_start = ThreadMicros();
    const v1::StepPlan plan = scheduler->NextStep(SteadyClock::now());
    const double next = ThreadMicros() - next_start;
    std::vector<GroupResult> results = model.Run(plan);
    const double commit_start = ThreadMicros();
    const auto events = scheduler->Commit(plan.step(), std::move(results));
    const double commit = ThreadMicros() - commit_start;
    CHECK(events.ok());
    for (const SequenceEvent& event : *events) {
      if (event.finished) CHECK(scheduler->Submit(MixedRequest(random)).ok());
    }
    if (!timed) return;
    next_micros += next;
    commit_micros += commit;
    changes += plan.new_sequences_size() + plan.granted_size() + plan.stopped_size();
    tokens += static_cast<int64_t>(events->size());
    state.SetIterationTime((next + commit) * 1e-6);
  };
  for (int i = 0; i < 600; ++i) step(false);
  for (auto _ : state) step(true);
  state.counters["changes_per_step"] =
      static_cast<double>(changes) / static_cast<double>(state.iterations());
  state.counters["next_us_per_change"] = next_micros / static_cast<double>(changes);
  state.counters["commit_us_per_token"] = commit_micros / static_cast<double>(tokens);
  state.counters["commit_of_bar"] = commit_micros / static_cast<double>(tokens) / kCommitMicros;
}

v1::ShardingPlan MakeBenchPlan() {
  v1::ShardingPlan plan;
  plan.set_format_version(1);
  plan.mutable_layout()->set_replicas(1);
  plan.mutable_layout()->set_pp(1);
  plan.mutable_layout()->set_dp(kGroups);
  plan.mutable_layout()->set_tp(kTp);
  plan.mutable_layout()->set_ep(1);
  plan.mutable_layout()->set_moe_tp(kRanks);
  for (int rank = 0; rank < kRanks; ++rank) plan.add_ranks()->set_rank(rank);
  HashPlan(&plan);
  return plan;
}

// Steps on their way to the fleet: how many, and when the first with a new sequence came.
class CountingSender final : public StepSender {
 public:
  explicit CountingSender(Fleet* fleet) : fleet_(fleet) {}
  void SendStep(v1::StepPlan step) override {
    ++steps_;
    if (step.new_sequences_size() > 0) admitted_ = SteadyClock::now().time_since_epoch().count();
    fleet_->SendStep(std::move(step));
  }
  int64_t steps() const { return steps_; }
  SteadyClock::time_point admitted() const {
    return SteadyClock::time_point(SteadyClock::duration(admitted_));
  }

 private:
  Fleet* const fleet_;
  std::atomic<int64_t> steps_{0};
  std::atomic<SteadyClock::rep> admitted_{0};
};

// The coordinator in this process, its ranks in a child.
class Deployment {
 public:
  explicit Deployment(const SchedulerConfig& config) {
    FleetOptions options;
    options.ranks = kRanks;
    options.heartbeat_timeout = options.step_stall = std::chrono::seconds(60);
    fleet_ = std::make_unique<Fleet>(options);
    fleet_->SetOnFailed([](const absl::Status& status) {
      spdlog::error("{}", status.ToString());
      CHECK(false);
    });
    server_ = ControlServer::Start("127.0.0.1", 0, fleet_.get()).value();
    StartRanks(config.max_num_seqs);
    CHECK(fleet_->WaitJoined().ok());
    CHECK(fleet_->Plan(MakeBenchPlan()).ok());
    CHECK(fleet_->Load().ok());
    CHECK(fleet_->Connect().ok());
    CHECK(fleet_->Warm().ok());
    sender_ = std::make_unique<CountingSender>(fleet_.get());
    Engine::Options engine;
    engine.sender = sender_.get();
    engine_ = std::make_unique<Engine>(engine, Scheduler::Create(config).value());
    fleet_->SetOnStep([this](StepOutcome outcome) { engine_->OnStepDone(std::move(outcome)); });
    engine_->Start();
  }
  ~Deployment() {
    engine_->Stop();
    fleet_->Drain("the benchmark is over", std::chrono::seconds(30));
    CHECK(waitpid(ranks_, nullptr, 0) == ranks_);
    server_.reset();
    fleet_.reset();
  }
  Engine& engine() { return *engine_; }
  const CountingSender& sender() const { return *sender_; }

 private:
  void StartRanks(uint32_t slots) {
    std::string name = "coordinator_bench", mode = "--simulate-ranks";
    std::string port = absl::StrCat(server_->port()), seqs = absl::StrCat(slots);
    char* args[] = {name.data(), mode.data(), port.data(), seqs.data(), nullptr};
    CHECK(posix_spawn(&ranks_, "/proc/self/exe", nullptr, nullptr, args, environ) == 0);
  }

  std::unique_ptr<Fleet> fleet_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<CountingSender> sender_;
  std::unique_ptr<Engine> engine_;
  pid_t ranks_ = 0;
};

// Counts tokens; asks for another request when its own ends.
class LoopSink final : public RequestSink, public std::enable_shared_from_this<LoopSink> {
 public:
  struct Shared {
    Engine* engine = nullptr;
    std::atomic<bool> again{true};
    std::atomic<int64_t> tokens{0};
  };
  LoopSink(Shared* shared, uint64_t seed) : shared_(shared), random_(seed) {}
  void Start() { CHECK(shared_->engine->Submit(MixedRequest(random_), shared_from_this()).ok()); }
  void OnToken(const v1::SampledToken& token, v1::FinishReason end) override {
    shared_->tokens.fetch_add(1, std::memory_order_relaxed);
    if (end != v1::FINISH_REASON_UNSPECIFIED && shared_->again) Start();
  }
  void OnError(const absl::Status& status) override { CHECK_OK(status); }

 private:
  Shared* const shared_;
  std::mt19937_64 random_;
};

double CpuMicros() {
  rusage usage;
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  const auto micros = [](const timeval& t) {
    return 1e6 * static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec);
  };
  return micros(usage.ru_utime) + micros(usage.ru_stime);
}

void WaitUntil(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

// As many steps as the machine allows, ranks and coordinator on the same cores.
void Scale(benchmark::State& state) {
  const auto running = static_cast<uint32_t>(state.range(0));
  LoopSink::Shared shared;  // outlives the engine, which calls the sinks
  Deployment deployment(Config(kGroups, kRunning, 1024));
  shared.engine = &deployment.engine();
  for (uint32_t i = 0; i < running; ++i) std::make_shared<LoopSink>(&shared, i)->Start();
  WaitUntil([&] { return deployment.engine().Stats().running >= running * 99 / 100; });
  for (auto _ : state) {
    const int64_t first = deployment.sender().steps(), first_token = shared.tokens;
    const double cpu = CpuMicros();
    const auto start = SteadyClock::now();
    WaitUntil([&] { return deployment.sender().steps() >= first + 400; });
    const double micros = Since(start), cpu_micros = CpuMicros() - cpu;
    const auto steps = static_cast<double>(deployment.sender().steps() - first);
    state.SetIterationTime(micros * 1e-6);
    state.counters["steps_per_s"] = steps / micros * 1e6;
    state.counters["steps_of_wanted"] = steps / micros * 1e6 / kStepsPerSecond;
    state.counters["tokens_per_step"] = static_cast<double>(shared.tokens - first_token) / steps;
    state.counters["cpu_us_per_step"] = cpu_micros / steps;
    state.counters["cpu_us_per_rank"] = cpu_micros / steps / kRanks;
    // Of two cores, at the steps a second that are wanted.
    state.counters["cores_of_bar"] = cpu_micros / steps * kStepsPerSecond / 2e6;
  }
  shared.again = false;
  deployment.engine().EndRequests(absl::OkStatus());
}

// From Submit to the step with the sequence on its way to the fleet, deployment idle.
void Admission(benchmark::State& state) {
  LoopSink::Shared shared;  // outlives the engine, which calls the sinks
  Deployment deployment(Config(kGroups, kRunning, 1024));
  shared.engine = &deployment.engine();
  shared.again = false;
  std::vector<double> micros;
  std::mt19937_64 random(3);
  for (auto _ : state) {
    const auto start = SteadyClock::now();
    const auto sink = std::make_shared<LoopSink>(&shared, random());
    CHECK(deployment.engine().Submit(Request(random, 64, 2), sink).ok());
    CHECK(deployment.engine().WaitDrained(std::chrono::seconds(30)));
    micros.push_back(Micros(deployment.sender().admitted() - start).count());
    state.SetIterationTime(micros.back() * 1e-6);
  }
  std::sort(micros.begin(), micros.end());
  state.counters["median_us"] = micros[micros.size() / 2];
  state.counters["p99_us"] = micros[micros.size() * 99 / 100];
  state.counters["median_of_bar"] = micros[micros.size() / 2] / kAdmissionMicros;
}

void Register() {
  for (const int running : {0, 256, 2048, 8192, 32768}) {
    benchmark::RegisterBenchmark("Scheduler/goes_on", GoesOn)
        ->Arg(running)
        ->Iterations(400)
        ->UseManualTime();
  }
  for (const int groups : {1, kGroups}) {
    benchmark::RegisterBenchmark("Scheduler/changes/dp", Changes)
        ->Arg(groups)
        ->Iterations(1000)
        ->UseManualTime();
  }
  for (const int running : {256, static_cast<int>(kRunning)}) {
    benchmark::RegisterBenchmark("Coordinator/running", Scale)
        ->Arg(running)
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark("Coordinator/admission", Admission)
      ->Iterations(200)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

int Main(int argc, char** argv) {
  InitLogging("coordinator");
  spdlog::set_level(spdlog::level::warn);
  if (argc == 4 && std::strcmp(argv[1], "--simulate-ranks") == 0) {
    SimulatedRanksOptions options{.ranks = kRanks, .tp = kTp};
    if (!absl::SimpleAtoi(argv[2], &options.port) || !absl::SimpleAtoi(argv[3], &options.slots)) {
      return 2;
    }
    return RunSimulatedRanks(options);
  }
  Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) { return whalepod::Main(argc, argv); }
