#include "worker/comm/select.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace whalepod {
namespace {

class AutoFactory : public CommunicatorFactory {
 public:
  explicit AutoFactory(const AutoOptions& options)
      : shared_memory_(MakeSharedMemoryFactory(options.shared_memory)) {
    if (!options.gloo.address.empty() || !options.gloo.interface.empty()) {
      gloo_ = MakeGlooFactory(options.gloo);
    }
  }

  // Both factories' blobs; Gloo's may be empty.
  absl::StatusOr<std::string> Rendezvous() override {
    ASSIGN_OR_RETURN(std::string shared_memory, shared_memory_->Rendezvous());
    std::string gloo;
    if (gloo_ != nullptr) {
      ASSIGN_OR_RETURN(gloo, gloo_->Rendezvous());
    }
    return absl::StrCat(shared_memory, "\n", gloo);
  }

  absl::StatusOr<std::vector<std::unique_ptr<Communicator>>> Connect(
      const Peers& peers, absl::Span<const GroupSpec> specs, TimePoint deadline) override {
    if (peers.hosts.size() != peers.rendezvous.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(peers.rendezvous.size(), " ranks, but ", peers.hosts.size(), " hosts"));
    }
    Peers by_memory = peers;
    Peers by_gloo = peers;
    for (size_t rank = 0; rank < peers.rendezvous.size(); ++rank) {
      std::vector<std::string> blobs =
          absl::StrSplit(peers.rendezvous[rank], absl::MaxSplits('\n', 1));
      by_memory.rendezvous[rank] = blobs[0];
      by_gloo.rendezvous[rank] = blobs.size() > 1 ? blobs[1] : "";
    }
    std::vector<GroupSpec> local;
    std::vector<GroupSpec> spanning;
    std::vector<bool> spans;
    for (const GroupSpec& spec : specs) {
      ASSIGN_OR_RETURN(bool span, Spans(peers, spec));
      spans.push_back(span);
      (span ? spanning : local).push_back(spec);
    }
    // The same order on all ranks: nobody waits here for a rank that waits there.
    ASSIGN_OR_RETURN(auto in_memory, shared_memory_->Connect(by_memory, local, deadline));
    std::vector<std::unique_ptr<Communicator>> over_gloo;
    if (!spanning.empty()) {
      ASSIGN_OR_RETURN(over_gloo, gloo_->Connect(by_gloo, spanning, deadline));
    }
    std::vector<std::unique_ptr<Communicator>> all;
    size_t next_local = 0;
    size_t next_spanning = 0;
    for (bool span : spans) {
      all.push_back(std::move(span ? over_gloo[next_spanning++] : in_memory[next_local++]));
    }
    return all;
  }

 private:
  absl::StatusOr<bool> Spans(const Peers& peers, const GroupSpec& spec) const {
    std::set<std::string> hosts;
    for (int rank : spec.ranks) {
      if (rank < 0 || rank >= static_cast<int>(peers.hosts.size())) {
        return absl::InvalidArgumentError(absl::StrCat("group ", spec.name, " names rank ", rank,
                                                       ", the world has ", peers.hosts.size()));
      }
      hosts.insert(peers.hosts[rank]);
    }
    if (hosts.size() > 1 && gloo_ == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("group ", spec.name, " spans hosts ", absl::StrJoin(hosts, ", "),
                       ", and rank ", peers.rank, " was given no address to listen on"));
    }
    return hosts.size() > 1;
  }

  const std::unique_ptr<CommunicatorFactory> shared_memory_;
  std::unique_ptr<CommunicatorFactory> gloo_;  // null: one host only
};

}  // namespace

std::unique_ptr<CommunicatorFactory> MakeAutoCommunicatorFactory(const AutoOptions& options) {
  return std::make_unique<AutoFactory>(options);
}

}  // namespace whalepod
