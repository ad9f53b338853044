#include "tests/worker/model/harness.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"
#include "coordinator/checkpoint/checkpoint.h"
#include "coordinator/plan/planner.h"
#include "proto/plan/layout.h"
#include "proto/plan/memory.h"

namespace whalepod::testing {
namespace {

int64_t LedgerBytes(const v1::RankPart& part, v1::LedgerKind kind) {
  for (const v1::LedgerItem& item : part.ledger().items()) {
    if (item.kind() == kind) return item.bytes();
  }
  return 0;
}

// Far beyond what an exchange takes: a rank that fails shows as an error, not as a test that hangs.
TimePoint Deadline() { return Clock::Real()->Now() + std::chrono::seconds(60); }

// Vectors are aligned to 16 bytes only: arenas start at the next multiple of 64. All bits are set,
// which is NaN in every type: what is read before it is written shows.
Executor::Memory Aligned(std::vector<std::byte>& arena, int64_t bytes) {
  arena.assign(bytes + 64, std::byte{0xff});
  const auto address = reinterpret_cast<uintptr_t>(arena.data());
  return {arena.data() + (64 - address % 64) % 64, bytes};
}

}  // namespace

std::string DeploymentOptions::Name() const {
  return absl::StrCat("dp", dp, " tp", tp, " ep", ep, " moe_tp", moe_tp, float32 ? " f32" : " bf16",
                      w8a8 ? " w8a8" : " w8a16");
}

absl::StatusOr<std::unique_ptr<Deployment>> Deployment::Create(const DeploymentOptions& options) {
  auto deployment = std::make_unique<Deployment>();
  deployment->options_ = options;
  RETURN_IF_ERROR(deployment->MakePlan());
  const int world = deployment->plan_.ranks_size();
  deployment->world_ = std::make_unique<InProcessWorld>(world);
  for (int r = 0; r < world; ++r) deployment->ranks_.push_back(std::make_unique<RankState>());
  RETURN_IF_ERROR(deployment->OnAllRanks([&](int rank) { return deployment->LoadRank(rank); }));
  RETURN_IF_ERROR(deployment->OnAllRanks([&](int rank) { return deployment->StartRank(rank); }));
  return deployment;
}

Deployment::~Deployment() = default;

absl::Status Deployment::MakePlan() {
  ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(options_.checkpoint));
  PlanRequest request;
  request.model = checkpoint.model;
  request.checkpoint = &checkpoint;
  request.dp = options_.dp;
  request.tp = options_.tp;
  request.ep = options_.ep;
  request.moe_tp = options_.moe_tp;
  request.runtime.set_compute_dtype(options_.float32 ? v1::DTYPE_F32 : v1::DTYPE_BF16);
  request.runtime.set_activation_quant(options_.w8a8 ? v1::ACTIVATION_QUANT_FP8
                                                     : v1::ACTIVATION_QUANT_NONE);
  request.runtime.set_max_num_seqs(options_.max_seqs);
  request.runtime.set_max_num_batched_tokens(options_.max_tokens);
  request.runtime.set_max_model_len(options_.max_model_len);
  request.runtime.set_kv_block_tokens(options_.block_tokens);
  request.runtime.set_threads_per_rank(options_.threads);
  const int64_t blocks_of_one =
      (options_.max_model_len + options_.block_tokens - 1) / options_.block_tokens;
  request.kv_bytes_per_host =
      options_.dp * options_.tp * (options_.max_seqs * blocks_of_one + 1) *
      KvBlockBytes(checkpoint.model, request.runtime, checkpoint.model.num_hidden_layers());
  ASSIGN_OR_RETURN(plan_, whalepod::MakePlan(request));
  return BindPlan(checkpoint, &plan_);
}

absl::Status Deployment::LoadRank(int rank) {
  RankState& state = *ranks_[rank];
  *state.part.mutable_header() = plan_;
  state.part.mutable_header()->clear_ranks();
  *state.part.mutable_part() = plan_.ranks(rank);
  const v1::RankPart& part = state.part.part();
  ASSIGN_OR_RETURN(state.backend,
                   CreateCpuBackend({.threads = options_.threads, .isa = options_.isa}));
  if (options_.wrap) state.backend = options_.wrap(std::move(state.backend));
  const Executor::Memory weights =
      Aligned(state.weight_arena, LedgerBytes(part, v1::LEDGER_KIND_WEIGHTS));
  RETURN_IF_ERROR(LoadWeights(
      state.part, weights.data, weights.bytes, 1, [](int64_t, int64_t) {}, [] { return false; }));
  ASSIGN_OR_RETURN(state.weights, WeightMap::Create(state.part, weights.data, weights.bytes));
  return absl::OkStatus();
}

absl::Status Deployment::StartRank(int rank) {
  RankState& state = *ranks_[rank];
  const v1::RankPart& part = state.part.part();
  std::vector<CommunicatorFactory::GroupSpec> specs;
  for (uint32_t group : part.groups()) {
    const v1::Group& g = plan_.groups(static_cast<int>(group));
    specs.push_back({.name = g.name(),
                     .ranks = {g.ranks().begin(), g.ranks().end()},
                     .max_bytes = MaxContribution(plan_, static_cast<int>(group))});
  }
  CommunicatorFactory::Peers peers{.rank = rank, .session = "test"};
  peers.rendezvous.resize(world_->size());
  peers.hosts.assign(world_->size(), "host");
  ASSIGN_OR_RETURN(state.communicators, world_->factory(rank)->Connect(peers, specs, Deadline()));
  Executor::Options options;
  options.part = &state.part;
  options.backend = state.backend.get();
  options.weights = *state.weights;
  options.kv = Aligned(state.kv_arena, LedgerBytes(part, v1::LEDGER_KIND_KV));
  options.activations =
      Aligned(state.activation_arena, LedgerBytes(part, v1::LEDGER_KIND_ACTIVATIONS));
  for (auto& communicator : state.communicators) {
    options.communicators.push_back(communicator.get());
  }
  if (rank == 0) options.observer = options_.observer;
  ASSIGN_OR_RETURN(state.executor, Executor::Create(std::move(options)));
  return absl::OkStatus();
}

template <typename Work>
absl::Status Deployment::OnAllRanks(const Work& work) {
  std::vector<absl::Status> status(ranks_.size());
  const auto run = [&](int rank) {
    status[rank] = work(rank);
    if (status[rank].ok()) return;
    for (auto& communicator : ranks_[rank]->communicators) {
      communicator->Abort(std::string(status[rank].message()));
    }
  };
  std::vector<std::thread> threads;
  for (size_t r = 1; r < ranks_.size(); ++r) threads.emplace_back(run, static_cast<int>(r));
  run(0);
  for (std::thread& thread : threads) thread.join();
  // An abort is what other ranks' errors cause: report a cause if there is one.
  absl::Status first;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    if (!status[r].ok() && (first.ok() || absl::IsAborted(first))) {
      first = Annotate(status[r], absl::StrCat("rank ", r));
    }
  }
  return first;
}

absl::StatusOr<std::vector<v1::StepResult>> Deployment::Step(v1::StepPlan step) {
  step.set_epoch(1);
  step.set_step(++step_);
  std::vector<v1::StepResult> results(ranks_.size());
  RETURN_IF_ERROR(OnAllRanks([&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(results[rank], ranks_[rank]->executor->Run(step, Deadline()));
    return absl::OkStatus();
  }));
  for (size_t r = 0; r < results.size(); ++r) {
    const int leader = static_cast<int>(r) / options_.tp * options_.tp;
    if (results[r].digest() != results[leader].digest()) {
      return absl::InternalError(absl::StrCat("digests of ranks ", r, " and ", leader, " differ"));
    }
    if (static_cast<int>(r) != leader && results[r].tokens_size() + results[r].prompt_size() > 0) {
      return absl::InternalError(absl::StrCat("rank ", r, " reports tokens"));
    }
  }
  return results;
}

int64_t Deployment::blocks(int dp_group) const {
  return KvBlocks(plan_, plan_.ranks(dp_group * options_.tp));
}

int64_t Deployment::planned_activations(int rank) const {
  return LedgerBytes(plan_.ranks(rank), v1::LEDGER_KIND_ACTIVATIONS);
}

namespace {

constexpr uint64_t kFirstSequence = 100;

// The sequences and blocks of one DP group.
class GroupScheduler {
 public:
  GroupScheduler(const Deployment& deployment, int group) : group_(group) {
    // Blocks are handed out in no simple order, so that tables matter.
    const int64_t blocks = deployment.blocks(group);
    for (int64_t i = 0; i < blocks; ++i) free_.push_back(static_cast<uint32_t>(i * 7 % blocks));
    std::sort(free_.begin(), free_.end());
    free_.erase(std::unique(free_.begin(), free_.end()), free_.end());
    for (size_t i = 0; i + 3 < free_.size(); i += 4) std::swap(free_[i], free_[i + 3]);
    slots_.resize(deployment.options().max_seqs);
    max_tokens_ = deployment.options().max_tokens;
    block_tokens_ = deployment.options().block_tokens;
  }

  void Submit(size_t index, const Request* request) { waiting_.push_back({index, request}); }
  bool idle() const {
    return waiting_.empty() &&
           std::all_of(slots_.begin(), slots_.end(), [](const Live& l) { return !l.used; }) &&
           stopped_.empty();
  }

  // Adds this group's changes; returns its rows.
  int64_t Plan(v1::StepPlan* step) {
    for (uint32_t slot : stopped_) {
      v1::StoppedSequence* entry = step->add_stopped();
      entry->set_slot(slot);
      entry->set_dp_group(group_);
    }
    stopped_.clear();
    Admit(step);
    int64_t rows = 0;
    for (Live& live : slots_) rows += live.used && live.decoding;
    for (uint32_t slot = 0; slot < slots_.size(); ++slot) {
      Live& live = slots_[slot];
      if (!live.used) continue;
      live.step_rows = live.decoding ? 1 : 0;
      if (!live.decoding) {
        const int64_t limit = live.request->chunk > 0 ? live.request->chunk : max_tokens_;
        live.step_rows = std::min({limit, live.known - live.computed, max_tokens_ - rows});
        if (live.step_rows > 0) {
          v1::PrefillChunk* chunk = step->add_prefill();
          chunk->set_slot(slot);
          chunk->set_dp_group(group_);
          chunk->set_tokens(static_cast<uint32_t>(live.step_rows));
          rows += live.step_rows;
        }
      }
      Grant(slot, live, step);
    }
    return rows;
  }

  void Commit(const v1::StepResult& result, std::vector<Completion>* completions) {
    for (Live& live : slots_) {
      if (live.used) live.computed += live.step_rows;
    }
    for (const v1::PromptLogprob& token : result.prompt()) {
      (*completions)[token.sequence() - kFirstSequence].prompt.push_back(token);
    }
    for (const v1::SampledToken& token : result.tokens()) {
      Live& live = slots_[token.slot()];
      Completion& completion = (*completions)[live.index];
      live.decoding = true;
      ++live.known;
      completion.ids.push_back(token.token_id());
      completion.logprobs.push_back(token.logprob());
      completion.top.emplace_back(token.top().begin(), token.top().end());
      completion.error = token.error();
      const bool eos = !live.request->ignore_eos && token.token_id() == 1;
      if (eos || !token.error().empty() ||
          static_cast<int>(completion.ids.size()) >= live.request->max_new) {
        stopped_.push_back(token.slot());
        free_.insert(free_.end(), live.blocks.begin(), live.blocks.end());
        live = Live();
      }
    }
  }

 private:
  struct Live {
    bool used = false;
    size_t index = 0;
    const Request* request = nullptr;
    int64_t known = 0, computed = 0, step_rows = 0;
    bool decoding = false;
    std::vector<uint32_t> blocks;
  };

  void Admit(v1::StepPlan* step) {
    for (uint32_t slot = 0; slot < slots_.size() && !waiting_.empty(); ++slot) {
      Live& live = slots_[slot];
      if (live.used) continue;
      const auto [index, request] = waiting_.front();
      waiting_.pop_front();
      live.used = true;
      live.index = index;
      live.request = request;
      live.known = static_cast<int64_t>(request->prompt.size() + request->generated.size());
      v1::NewSequence* entry = step->add_new_sequences();
      entry->set_sequence(kFirstSequence + index);
      entry->set_slot(slot);
      entry->set_dp_group(group_);
      entry->mutable_tokens()->Add(request->prompt.begin(), request->prompt.end());
      entry->mutable_tokens()->Add(request->generated.begin(), request->generated.end());
      entry->set_prompt_len(static_cast<uint32_t>(request->prompt.size()));
      *entry->mutable_sampling() = request->more;
      entry->mutable_sampling()->set_temperature(request->temperature);
      entry->mutable_sampling()->set_seed(request->seed);
      entry->mutable_sampling()->set_choice(request->choice);
      entry->mutable_sampling()->set_logprobs(request->logprobs);
    }
  }

  void Grant(uint32_t slot, Live& live, v1::StepPlan* step) {
    const int64_t needed = (live.computed + live.step_rows + block_tokens_ - 1) / block_tokens_;
    if (needed <= static_cast<int64_t>(live.blocks.size())) return;
    v1::GrantedBlocks* granted = step->add_granted();
    granted->set_slot(slot);
    granted->set_dp_group(group_);
    while (static_cast<int64_t>(live.blocks.size()) < needed) {
      live.blocks.push_back(free_.back());
      granted->add_blocks(free_.back());
      free_.pop_back();
    }
  }

  uint32_t group_;
  int64_t max_tokens_, block_tokens_;
  std::vector<uint32_t> free_;
  std::vector<Live> slots_;
  std::deque<std::pair<size_t, const Request*>> waiting_;
  std::vector<uint32_t> stopped_;
};

}  // namespace

absl::StatusOr<std::vector<Completion>> Generate(Deployment& deployment,
                                                 const std::vector<Request>& requests) {
  const int dp = deployment.options().dp;
  std::vector<GroupScheduler> groups;
  for (int g = 0; g < dp; ++g) groups.emplace_back(deployment, g);
  for (size_t i = 0; i < requests.size(); ++i) {
    groups[requests[i].dp_group % dp].Submit(i, &requests[i]);
  }
  std::vector<Completion> completions(requests.size());
  while (std::any_of(groups.begin(), groups.end(), [](const auto& g) { return !g.idle(); })) {
    v1::StepPlan step;
    for (GroupScheduler& group : groups) {
      step.add_group_tokens(static_cast<uint32_t>(group.Plan(&step)));
    }
    ASSIGN_OR_RETURN(const std::vector<v1::StepResult> results, deployment.Step(std::move(step)));
    for (int g = 0; g < dp; ++g) {
      groups[g].Commit(results[g * deployment.options().tp], &completions);
    }
  }
  return completions;
}

}  // namespace whalepod::testing
