#include "coordinator/server.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "coordinator/step_time.h"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"

namespace whalepod {
namespace {

// How long workers may take to leave after they were told to.
constexpr std::chrono::seconds kLeave(5);
// The same for those told to abort.
constexpr std::chrono::seconds kAbort(3);
// A poll of the stop flag while the engine drains.
constexpr std::chrono::milliseconds kDrainPoll(50);

int64_t WallMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

std::string NameOf(const ServeOptions& options) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  std::filesystem::path path(options.model);
  if (!path.has_filename()) path = path.parent_path();
  std::error_code error;
  const std::filesystem::path real = std::filesystem::weakly_canonical(path, error);
  return (error ? path : real).filename().string();
}

// What a request's tokens depend on besides itself: shapes and precision. Of the weights only their
// sizes: to read them all takes as long as loading.
std::string IdentityOf(const v1::ShardingPlan& plan) {
  v1::ShardingPlan what;
  *what.mutable_model() = plan.model();
  what.mutable_runtime()->set_compute_dtype(plan.runtime().compute_dtype());
  what.mutable_runtime()->set_activation_quant(plan.runtime().activation_quant());
  what.set_total_parameters(plan.total_parameters());
  what.set_total_bytes(plan.total_bytes());
  return Sha256(Deterministic(what));
}

// Ranks in order, one host entry for each run of ranks on one host.
std::vector<v1::Host> HostsOf(const std::vector<v1::Hello>& hellos) {
  std::vector<v1::Host> hosts;
  for (const v1::Hello& hello : hellos) {
    if (hosts.empty() || hosts.back().name() != hello.host()) {
      hosts.emplace_back().set_name(hello.host());
      hosts.back().set_device_name("cpu");
    }
    hosts.back().set_devices(hosts.back().devices() + 1);
    hosts.back().set_memory_bytes(hosts.back().memory_bytes() +
                                  std::max<int64_t>(0, hello.memory_bytes()));
  }
  return hosts;
}

// Where a host's ranks do not follow each other it has several entries in `hosts`: its KV must be
// shared among all of them.
void ShareKv(const std::vector<v1::Hello>& hellos, PlanRequest* request) {
  std::map<std::string, int64_t> ranks, entries;
  for (const v1::Hello& hello : hellos) ++ranks[hello.host()];
  for (const v1::Host& host : request->hosts) ++entries[host.name()];
  if (entries.size() == request->hosts.size()) return;
  int64_t most = 1;
  for (const auto& [host, count] : ranks) most = std::max(most, count);
  const int64_t bytes = request->kv_bytes_per_host > 0 ? request->kv_bytes_per_host : 512 * kMiB;
  request->runtime.set_kv_bytes_per_rank(bytes / most);
  spdlog::warn("ranks of one host do not follow each other: neighbours will talk over the network");
}

// Workers' buffers are sized by their threads: without a flag by the most that any has.
absl::Status SetThreads(const std::vector<v1::Hello>& hellos, PlanRequest* request) {
  constexpr int32_t kMostThreads = 4096;
  const int64_t asked = request->runtime.threads_per_rank();
  for (const v1::Hello& hello : hellos) {
    if (hello.threads() < 0 || hello.threads() > kMostThreads) {
      return absl::InvalidArgumentError(absl::StrCat("worker ", hello.worker(), " says it has ",
                                                     hello.threads(), " threads, at most ",
                                                     kMostThreads, " are allowed"));
    }
    if (asked > 0 && hello.threads() > asked) {
      return absl::InvalidArgumentError(absl::StrCat(
          "worker ", hello.worker(), " computes with ", hello.threads(),
          " threads, --threads-per-rank is ", asked, ": start it with --threads ", asked));
    }
    if (asked == 0 && hello.threads() > request->runtime.threads_per_rank()) {
      request->runtime.set_threads_per_rank(hello.threads());
    }
  }
  return absl::OkStatus();
}

FleetOptions FleetOptionsOf(const ServeOptions& options, uint64_t epoch) {
  FleetOptions fleet;
  fleet.ranks = options.ranks();
  fleet.epoch = epoch;
  fleet.join_timeout = Seconds(options.join_timeout);
  fleet.plan_timeout = Seconds(options.plan_timeout);
  fleet.load_timeout = Seconds(options.load_timeout);
  fleet.connect_timeout = Seconds(options.connect_timeout);
  fleet.warm_timeout = Seconds(options.warm_timeout);
  fleet.heartbeat_timeout = Seconds(options.heartbeat_timeout);
  fleet.step_stall = Seconds(options.step_stall);
  return fleet;
}

// Hosts are not known at first, so a mistyped size of the KV cache has met no limit yet.
absl::Status CheckBlocks(const v1::ShardingPlan& plan) {
  constexpr int64_t kMostBlocks = int64_t{1} << 26;
  const v1::ShardingPlan header = HeaderOf(plan);
  for (const v1::RankPart& part : plan.ranks()) {
    if (const int64_t blocks = KvBlocks(header, part); blocks > kMostBlocks) {
      return absl::InvalidArgumentError(absl::StrCat("the KV cache of rank ", part.rank(), " has ",
                                                     FormatCount(blocks), " blocks, at most ",
                                                     FormatCount(kMostBlocks),
                                                     " can be kept: lower "
                                                     "--kv-cache-bytes"));
    }
  }
  return absl::OkStatus();
}

SchedulerConfig SchedulerConfigOf(const ServeOptions& options, const v1::ShardingPlan& plan) {
  const v1::RuntimeSpec& runtime = plan.runtime();
  SchedulerConfig config;
  const v1::ShardingPlan header = HeaderOf(plan);
  const int tp = std::max(1, plan.layout().tp());
  for (int rank = 0; rank < plan.ranks_size(); rank += tp) {
    config.group_blocks.push_back(static_cast<uint32_t>(KvBlocks(header, plan.ranks(rank))));
  }
  config.block_tokens = static_cast<uint32_t>(runtime.kv_block_tokens());
  config.max_num_seqs = static_cast<uint32_t>(runtime.max_num_seqs());
  config.max_num_batched_tokens = static_cast<uint32_t>(runtime.max_num_batched_tokens());
  config.max_model_len = static_cast<uint32_t>(runtime.max_model_len());
  config.max_waiting = options.max_waiting;
  config.max_waiting_tokens = options.max_waiting_tokens;
  config.prefix_cache = options.enable_prefix_caching;
  config.ageing = Seconds(options.priority_ageing);
  config.min_chunk = options.min_prefill_chunk;
  config.first_step = Fleet::kFirstStep;
  for (const int64_t id : plan.model().eos_token_ids()) {
    config.eos_token_ids.push_back(static_cast<uint32_t>(id));
  }
  return config;
}

}  // namespace

CoordinatorServer::CoordinatorServer(const ServeOptions& options, Checkpoint checkpoint)
    : options_(options), checkpoint_(std::move(checkpoint)), metrics_(NameOf(options)) {}

CoordinatorServer::~CoordinatorServer() {
  // Clients go first, then steps, then ranks: nobody calls into what is gone.
  http_.reset();
  api_.reset();
  job_runner_.reset();
  job_api_.reset();  // runs what waits, which watches items
  job_backend_.reset();
  if (engine_ != nullptr) engine_->Stop();
  streams_.reset();
  frontend_.reset();
  control_.reset();
  fleet_.reset();
}

absl::StatusOr<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const ServeOptions& options) {
  ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(options.model));
  RETURN_IF_ERROR(checkpoint.CheckScales());
  std::unique_ptr<CoordinatorServer> server(new CoordinatorServer(options, std::move(checkpoint)));
  server->LoadText();
  RETURN_IF_ERROR(server->MakePlanFor({}));
  RETURN_IF_ERROR(server->Listen());
  return server;
}

// Token ids are served without it.
void CoordinatorServer::LoadText() {
  text_ = LoadModelText(options_.model);
  if (text_.tokenizer == nullptr) {
    spdlog::warn("no text: {}", text_.no_tokenizer);
  } else if (text_.chat == nullptr) {
    spdlog::warn("no chat: {}", text_.no_chat);
  }
}

absl::Status CoordinatorServer::MakePlanFor(const std::vector<v1::Hello>& hellos) {
  ASSIGN_OR_RETURN(PlanRequest request, MakePlanRequest(options_, checkpoint_));
  request.hosts = HostsOf(hellos);
  ShareKv(hellos, &request);
  RETURN_IF_ERROR(SetThreads(hellos, &request));
  ASSIGN_OR_RETURN(v1::ShardingPlan plan, MakePlan(request));
  RETURN_IF_ERROR(BindPlan(checkpoint_, &plan));
  RETURN_IF_ERROR(CheckBlocks(plan));
  // Limits under which a prompt could wait for ever are refused here, not once all is loaded.
  RETURN_IF_ERROR(Scheduler::Create(SchedulerConfigOf(options_, plan)).status());
  std::lock_guard lock(mu_);
  plan_ = std::move(plan);
  return absl::OkStatus();
}

absl::Status CoordinatorServer::Listen() {
  ASSIGN_OR_RETURN(epochs_, EpochStore::Open(options_.state_dir));
  ASSIGN_OR_RETURN(epoch_, epochs_->Next());
  SetLogEpoch(epoch_);
  FleetOptions fleet = FleetOptionsOf(options_, epoch_);
  fleet.predict = [model = StepTime(plan_)](const v1::StepPlan& step) { return model.Of(step); };
  fleet_ = std::make_unique<Fleet>(std::move(fleet));
  fleet_->SetOnFailed([this](const absl::Status& status) { NoteFailure(status); });

  ASSIGN_OR_RETURN(ApiKeys keys, ApiKeys::Parse(options_.api_keys, options_.usage_admin));
  RETURN_IF_ERROR(OpenUsage());
  frontend_ = std::make_unique<Frontend>(
      DescribeModel(), [this](v1::GetStatusResponse* status) { FillStatus(status); }, &metrics_,
      usage_.get(), std::move(keys));
  RETURN_IF_ERROR(OpenJobs());
  RETURN_IF_ERROR(OpenStreams());
  ASSIGN_OR_RETURN(api_, ApiServer::Start({.host = options_.host, .port = options_.grpc_port},
                                          frontend_.get(), job_api_.get(), streams_.get()));
  ASSIGN_OR_RETURN(http_, HttpServer::Start({.host = options_.host, .port = options_.port},
                                            frontend_.get(), job_api_.get()));
  ASSIGN_OR_RETURN(control_,
                   ControlServer::Start(options_.host, options_.control_port, fleet_.get()));
  spdlog::info("epoch {}: {} as {}, {} ranks; on {}: HTTP {}, gRPC {}, workers {}", epoch_,
               NameOf(options_), LayoutName(plan_.layout()), ranks(), options_.host, http_port(),
               grpc_port(), control_port());
  return absl::OkStatus();
}

absl::Status CoordinatorServer::OpenUsage() {
  UsageStore::Options usage;
  if (!options_.state_dir.empty()) usage.path = options_.state_dir + "/usage.db";
  usage.now_ms = WallMs;
  if (!options_.price_file.empty()) {
    absl::StatusOr<Prices> prices = Prices::Read(options_.price_file);
    if (!prices.ok()) return Annotate(prices.status(), "--price-file");
    usage.prices = *prices;
  }
  ASSIGN_OR_RETURN(usage_, UsageStore::Open(std::move(usage)));
  return absl::OkStatus();
}

// Jobs that were accepted wait until the deployment is ready.
absl::Status CoordinatorServer::OpenJobs() {
  std::string path = options_.jobs_db;
  if (path.empty() && !options_.state_dir.empty()) path = options_.state_dir + "/jobs.db";
  if (!path.empty()) {
    constexpr double kDayMs = 86400e3;
    const auto retention_ms = static_cast<int64_t>(options_.job_retention_days * kDayMs);
    ASSIGN_OR_RETURN(
        jobs_, JobStore::Open({.path = path, .now_ms = WallMs, .retention_ms = retention_ms}));
    job_backend_ =
        std::make_unique<JobBackend>(frontend_.get(), jobs_.get(), [] { return WallMs() / 1000; });
    JobRunner::Options runner;
    runner.most_in_flight = options_.jobs_in_flight;
    job_runner_ = std::make_unique<JobRunner>(jobs_.get(), job_backend_.get(), runner);
  }
  job_api_ = std::make_unique<JobApi>(
      jobs_.get(), job_backend_.get(),
      [this](const v1::GenerateRequest& request) { return frontend_->Check(request); });
  return absl::OkStatus();
}

absl::Status CoordinatorServer::OpenStreams() {
  // Of the wall's clock at the start, then of one that nobody sets: streams age only meanwhile.
  const auto now_ms = [wall = WallMs(), began = Clock::Real()->Now()] {
    return wall +
           std::chrono::duration_cast<std::chrono::milliseconds>(Clock::Real()->Now() - began)
               .count();
  };
  if (!options_.state_dir.empty()) {
    ASSIGN_OR_RETURN(stream_store_, StreamStore::Open({.path = options_.state_dir + "/streams.db",
                                                       .now_ms = now_ms,
                                                       .most_streams = options_.max_resumable}));
  }
  ResumableStreams::Options options;
  options.window = Seconds(options_.resume_window);
  options.now_ms = now_ms;
  streams_ = std::make_unique<ResumableStreams>(frontend_.get(), stream_store_.get(), options);
  return absl::OkStatus();
}

ServedModel CoordinatorServer::DescribeModel() const {
  ServedModel model;
  model.name = NameOf(options_);
  model.model_type = plan_.model().model_type();
  model.vocab_size = static_cast<uint32_t>(plan_.model().vocab_size());
  model.max_model_len = static_cast<uint32_t>(plan_.runtime().max_model_len());
  for (const int64_t id : plan_.model().eos_token_ids()) {
    model.eos_token_ids.push_back(static_cast<uint32_t>(id));
  }
  model.bos_token_id = static_cast<uint32_t>(plan_.model().bos_token_id());
  model.defaults = checkpoint_.defaults;
  model.text = text_;
  model.plan_hash = plan_.hash();
  model.layout = LayoutName(plan_.layout());
  model.identity = IdentityOf(plan_);
  if (engine_ != nullptr) model.kv_tokens = engine_->MaxSequenceTokens();
  return model;
}

absl::Status CoordinatorServer::BringUp() {
  ASSIGN_OR_RETURN(const std::vector<v1::Hello> hellos, fleet_->WaitJoined());
  RETURN_IF_ERROR(MakePlanFor(hellos));
  spdlog::info("epoch {}: plan {}: {} of weights in {} tensors", epoch_,
               HexOf(plan_.hash()).substr(0, 16), FormatBytes(plan_.total_bytes()),
               FormatCount(plan_.total_tensors()));
  RETURN_IF_ERROR(fleet_->Plan(plan_));
  RETURN_IF_ERROR(fleet_->Load());
  RETURN_IF_ERROR(fleet_->Connect());
  RETURN_IF_ERROR(fleet_->Warm());
  return StartEngine();
}

absl::Status CoordinatorServer::StartEngine() {
  ASSIGN_OR_RETURN(std::unique_ptr<Scheduler> scheduler,
                   Scheduler::Create(SchedulerConfigOf(options_, plan_)));
  Engine::Options options;
  options.sender = fleet_.get();
  auto engine = std::make_unique<Engine>(options, std::move(scheduler));
  Engine* const running = engine.get();
  running->SetOnBroken([this](const absl::Status& status) { fleet_->Abort(status); });
  metrics_.NoteTotals(Clock::Real()->Now());
  fleet_->SetOnStep([this, running](StepOutcome outcome) {
    SetLogStep(outcome.step);
    metrics_.RecordStep(outcome, Clock::Real()->Now());
    running->OnStepDone(std::move(outcome));
  });
  {
    std::lock_guard lock(mu_);
    engine_ = std::move(engine);
    // A rank may have been lost since it warmed.
    if (!failure_.ok()) return failure_;
  }
  running->Start();
  frontend_->SetReady(DescribeModel(), running);
  if (job_runner_ != nullptr) job_runner_->Start();
  api_->SetServing(true);
  spdlog::info("epoch {}: serving {} on {}: HTTP {}, gRPC {}", epoch_, NameOf(options_),
               options_.host, http_port(), grpc_port());
  return absl::OkStatus();
}

absl::Status CoordinatorServer::Run() { return WindDown(Serve()); }

// OK: asked to stop while ready.
absl::Status CoordinatorServer::Serve() {
  const absl::Status up = BringUp();
  std::unique_lock lock(mu_);
  if (!up.ok()) return failure_.ok() ? up : failure_;
  changed_.wait(lock, [this] { return stops_ > 0 || !failure_.ok(); });
  return failure_;
}

absl::Status CoordinatorServer::WindDown(absl::Status end) {
  const auto stops = [this] {
    std::lock_guard lock(mu_);
    return stops_;
  };
  api_->SetServing(false);
  frontend_->SetNotReady(end.ok() || stops() > 0
                             ? absl::UnavailableError("the deployment is shutting down")
                             : absl::UnavailableError(end.message()));
  // Its items are begun anew by the next coordinator.
  if (job_runner_ != nullptr) job_runner_->Stop();
  if (!end.ok()) {
    if (engine_ != nullptr) engine_->Fail(absl::UnavailableError(end.message()));
    fleet_->Abort(end);
    fleet_->WaitGone(kAbort);
    http_->Shutdown(std::chrono::milliseconds(500));
    api_->Shutdown(std::chrono::milliseconds(500));
    return stops() > 0 && absl::IsCancelled(end) ? absl::OkStatus() : end;
  }
  spdlog::info("epoch {}: draining", epoch_);
  engine_->Drain();
  const auto limit = std::chrono::steady_clock::now() + Seconds(options_.drain_timeout);
  while (!engine_->WaitDrained(kDrainPoll)) {
    if (stops() < 2 && std::chrono::steady_clock::now() < limit) continue;
    engine_->EndRequests(absl::UnavailableError("the deployment is shutting down"));
    engine_->WaitDrained(std::chrono::seconds(2));
    break;
  }
  if (!fleet_->Drain("the coordinator is shutting down", kLeave)) {
    spdlog::warn("epoch {}: some workers did not leave in time", epoch_);
  }
  fleet_->WaitGone(Duration(0));
  http_->Shutdown(std::chrono::milliseconds(500));
  api_->Shutdown(std::chrono::milliseconds(500));
  return engine_->Health();
}

void CoordinatorServer::Stop() {
  bool first = false;
  bool ready = false;
  {
    std::lock_guard lock(mu_);
    first = stops_++ == 0;
    ready = engine_ != nullptr;
    changed_.notify_all();
  }
  // Nothing runs yet that could be drained; this frees BringUp from its wait.
  if (first && !ready) fleet_->Abort(absl::CancelledError("stopped before it was ready"));
}

void CoordinatorServer::StopNow() {
  Stop();
  Stop();
}

void CoordinatorServer::Fail(const absl::Status& status) {
  fleet_->Abort(status);
  // If the fleet had failed already, what the caller saw is a consequence: the cause is to be
  // named.
  const absl::Status cause = fleet_->Health();
  NoteFailure(cause.ok() ? status : cause);
}

// Also called while the fleet goes, so it must not use it.
void CoordinatorServer::NoteFailure(const absl::Status& status) {
  Engine* engine = nullptr;
  {
    std::lock_guard lock(mu_);
    if (!failure_.ok()) return;
    failure_ = status;
    engine = engine_.get();
    changed_.notify_all();
  }
  if (engine != nullptr) engine->Fail(absl::UnavailableError(status.message()));
}

void CoordinatorServer::FillStatus(v1::GetStatusResponse* status) const {
  fleet_->FillStatus(status);
  std::lock_guard lock(mu_);
  if (status->state() == "ready" && stops_ > 0) status->set_state("stopping");
  // All ranks are ready a moment before requests are taken.
  if (status->state() == "ready" && !frontend_->ready()) status->set_state("starting");
  if (engine_ == nullptr) return;
  const SchedulerStats stats = engine_->Stats();
  status->set_running(stats.running);
  status->set_waiting(stats.waiting);
  status->set_steps(stats.steps);
  status->set_kv_blocks_total(stats.blocks_total);
  status->set_kv_blocks_used(stats.blocks_owned);
  status->set_kv_blocks_cached(stats.blocks_cached);
  status->set_preemptions(stats.preemptions);
  status->set_kv_block_tokens(static_cast<uint32_t>(plan_.runtime().kv_block_tokens()));
  const RateMeter::Rates rates = metrics_.Rates(Clock::Real()->Now());
  status->set_prompt_tokens_per_second(rates.prompt_tokens);
  status->set_generation_tokens_per_second(rates.generation_tokens);
  status->set_requests_per_second(rates.requests);
  status->set_rate_seconds(std::chrono::duration<double>(rates.over).count());
}

}  // namespace whalepod
