#include "worker/rank.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "base/units.h"
#include "proto/plan/hash.h"
#include "proto/plan/memory.h"
#include "proto/plan/validate.h"
#include "worker/executor.h"
#include "worker/memory/arena.h"
#include "worker/weights/weights.h"

namespace whalepod {
namespace {

// The ledger items that are arenas of the rank itself.
constexpr v1::LedgerKind kArenaKinds[] = {v1::LEDGER_KIND_WEIGHTS, v1::LEDGER_KIND_KV,
                                          v1::LEDGER_KIND_ACTIVATIONS};

absl::Status Bad(const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("plan part: ", what));
}

// What a worker must be able to rely on beyond the hashes: items and groups are there, once.
absl::Status CheckPart(const v1::PlanPart& part, bool has_comms) {
  if (!part.header().bound()) return Bad("it is not bound to a checkpoint");
  for (const v1::LedgerKind kind : kArenaKinds) {
    const auto& items = part.part().ledger().items();
    const auto of_kind = [kind](const v1::LedgerItem& item) { return item.kind() == kind; };
    if (std::count_if(items.begin(), items.end(), of_kind) != 1) {
      return Bad(absl::StrCat("the ledger needs one ", v1::LedgerKind_Name(kind)));
    }
  }
  for (const uint32_t index : part.part().groups()) {
    if (index >= static_cast<uint32_t>(part.header().groups_size())) {
      return Bad(absl::StrCat("group ", index, " of ", part.header().groups_size()));
    }
    const v1::Group& group = part.header().groups(static_cast<int>(index));
    if (std::count(group.ranks().begin(), group.ranks().end(), part.part().rank()) != 1) {
      return Bad(absl::StrCat("rank ", part.part().rank(), " is not in its group ", group.name()));
    }
  }
  if (part.part().groups_size() > 0 && !has_comms) {
    return absl::FailedPreconditionError("a plan with groups, and no way to communicate");
  }
  return absl::OkStatus();
}

class RankImpl : public Rank {
 public:
  explicit RankImpl(const Options& options) : options_(options) {}

  absl::Status SetPlan(v1::PlanPart part) override {
    RETURN_IF_ERROR(CheckAborted());
    if (part_.has_value())
      return absl::FailedPreconditionError("the rank has its plan part already");
    RETURN_IF_ERROR(ValidatePlanPart(part));
    RETURN_IF_ERROR(CheckPart(part, options_.comms != nullptr));
    part_ = std::move(part);
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<v1::LedgerItem>> Load(const Progress& progress) override {
    RETURN_IF_ERROR(CheckAborted());
    if (!part_.has_value()) return absl::FailedPreconditionError("Load before SetPlan");
    if (!arenas_.empty()) return absl::FailedPreconditionError("Load for the second time");
    RETURN_IF_ERROR(MapArenas());
    const Arena& weights = arenas_.at(v1::LEDGER_KIND_WEIGHTS);
    RETURN_IF_ERROR(LoadWeights(*part_, weights.data(), weights.bytes(),
                                options_.backend->Threads(), progress,
                                [this] { return aborted_.load(); }));
    ASSIGN_OR_RETURN(weights_, WeightMap::Create(*part_, weights.data(), weights.bytes()));
    if (part_->part().groups_size() == 0) RETURN_IF_ERROR(CreateExecutor());
    RETURN_IF_ERROR(CheckAborted());
    return ActualLedger();
  }

  absl::Status Connect(const CommunicatorFactory::Peers& peers, TimePoint deadline) override {
    RETURN_IF_ERROR(CheckAborted());
    if (!weights_.has_value()) return absl::FailedPreconditionError("Connect before Load");
    if (part_->part().groups_size() == 0) return absl::OkStatus();
    if (executor_ != nullptr) return absl::FailedPreconditionError("Connect for the second time");
    std::vector<CommunicatorFactory::GroupSpec> specs;
    for (const uint32_t index : part_->part().groups()) {
      const v1::Group& group = part_->header().groups(static_cast<int>(index));
      specs.push_back({.name = group.name(),
                       .ranks = {group.ranks().begin(), group.ranks().end()},
                       .max_bytes = MaxContribution(part_->header(), static_cast<int>(index))});
    }
    ASSIGN_OR_RETURN(std::vector<std::unique_ptr<Communicator>> made,
                     options_.comms->Connect(peers, specs, deadline));
    {
      std::lock_guard<std::mutex> lock(mu_);
      communicators_ = std::move(made);
      for (auto& communicator : communicators_) {
        if (aborted_) communicator->Abort(reason_);
      }
    }
    RETURN_IF_ERROR(CheckAborted());
    return CreateExecutor();
  }

  absl::StatusOr<v1::StepResult> Run(const v1::StepPlan& step, TimePoint deadline) override {
    RETURN_IF_ERROR(CheckAborted());
    if (executor_ == nullptr) return absl::FailedPreconditionError("Run before Connect");
    absl::StatusOr<v1::StepResult> result = executor_->Run(step, deadline);
    // An abort is the cause of whatever error it made.
    if (!result.ok()) RETURN_IF_ERROR(CheckAborted());
    return result;
  }

  void Abort(const std::string& reason) override {
    std::lock_guard<std::mutex> lock(mu_);
    if (!aborted_) reason_ = reason;
    aborted_ = true;
    for (auto& communicator : communicators_) communicator->Abort(reason_);
  }

 private:
  absl::Status CheckAborted() {
    if (!aborted_) return absl::OkStatus();
    std::lock_guard<std::mutex> lock(mu_);
    return absl::AbortedError(reason_);
  }

  absl::Status MapArenas() {
    for (const v1::LedgerItem& item : part_->part().ledger().items()) {
      if (std::count(std::begin(kArenaKinds), std::end(kArenaKinds), item.kind()) == 0) continue;
      // The loader's threads touch the weights' pages themselves.
      const Arena::Options options = {.prefault = item.kind() != v1::LEDGER_KIND_WEIGHTS};
      ASSIGN_OR_RETURN(arenas_[item.kind()], Arena::Create(item.name(), item.bytes(), options));
      RETURN_IF_ERROR(CheckAborted());
    }
    return absl::OkStatus();
  }

  // What the kernel says is mapped. It counts whole pages: an arena that ends within one is as long
  // as it was made.
  absl::StatusOr<std::vector<v1::LedgerItem>> ActualLedger() const {
    const int64_t page = sysconf(_SC_PAGESIZE);
    std::vector<v1::LedgerItem> actual;
    for (const v1::LedgerItem& planned : part_->part().ledger().items()) {
      const auto arena = arenas_.find(planned.kind());
      if (arena == arenas_.end()) continue;
      ASSIGN_OR_RETURN(const ArenaUsage usage, arena->second.Usage());
      v1::LedgerItem item = planned;
      const bool exact = usage.mapped == RoundUp(arena->second.bytes(), page);
      item.set_bytes(exact ? arena->second.bytes() : usage.mapped);
      item.set_formula(absl::StrCat("mapped ", usage.mapped, ", resident ", usage.resident));
      actual.push_back(std::move(item));
    }
    return actual;
  }

  absl::Status CreateExecutor() {
    const auto memory = [this](v1::LedgerKind kind) {
      const Arena& arena = arenas_.at(kind);
      return Executor::Memory{.data = arena.data(), .bytes = arena.bytes()};
    };
    Executor::Options options;
    options.part = &*part_;
    options.backend = options_.backend;
    options.weights = *weights_;
    options.kv = memory(v1::LEDGER_KIND_KV);
    options.activations = memory(v1::LEDGER_KIND_ACTIVATIONS);
    for (auto& communicator : communicators_) options.communicators.push_back(communicator.get());
    ASSIGN_OR_RETURN(executor_, Executor::Create(std::move(options)));
    return absl::OkStatus();
  }

  const Options options_;
  std::optional<v1::PlanPart> part_;
  std::map<v1::LedgerKind, Arena> arenas_;
  std::optional<WeightMap> weights_;
  std::atomic<bool> aborted_{false};
  std::mutex mu_;  // guards reason_ and the vector communicators_
  std::string reason_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
  std::unique_ptr<Executor> executor_;  // uses all of the above
};

}  // namespace

std::unique_ptr<Rank> Rank::Create(const Options& options) {
  return std::make_unique<RankImpl>(options);
}

}  // namespace whalepod
