#include "tests/worker/comm/comm_harness.h"

#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "worker/comm/select.h"
#include "worker/comm/shm_region.h"

namespace whalepod {
namespace {

// Gives all ranks of a group one mapping.
class RegionWorld {
 public:
  std::byte* Find(const std::string& key, size_t bytes) {
    std::lock_guard<std::mutex> lock(mu_);
    std::unique_ptr<Mapping>& mapping = mappings_[key];
    if (mapping == nullptr) mapping = std::make_unique<Mapping>(bytes);
    return mapping->base;
  }

 private:
  struct Mapping {
    explicit Mapping(size_t size) : bytes(size) {
      base = static_cast<std::byte*>(
          mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
    ~Mapping() { munmap(base, bytes); }
    std::byte* base;
    size_t bytes;
  };
  std::mutex mu_;
  std::map<std::string, std::unique_ptr<Mapping>> mappings_;
};

class RegionFactory : public CommunicatorFactory {
 public:
  RegionFactory(std::shared_ptr<RegionWorld> world, int64_t piece)
      : world_(std::move(world)), piece_(piece) {}

  absl::StatusOr<std::string> Rendezvous() override { return std::string("region"); }

  absl::StatusOr<Communicators> Connect(const Peers& peers, absl::Span<const GroupSpec> specs,
                                        TimePoint deadline) override {
    Communicators made;
    for (const GroupSpec& spec : specs) {
      ASSIGN_OR_RETURN(Group group,
                       MakeGroup(spec, peers.rank, static_cast<int>(peers.rendezvous.size())));
      size_t outbox = (piece_ + 63) / 64 * 64;
      std::byte* base = world_->Find(absl::StrCat(spec.name, absl::StrJoin(spec.ranks, ",")),
                                     ShmRegion::Bytes(group.size(), outbox));
      auto world = world_;
      auto region = std::make_unique<ShmRegion>(base, group.size(), outbox, [world] {});
      made.push_back(
          MakeShmCommunicator(std::move(group), std::move(region), 100, nullptr, Clock::Real()));
    }
    for (auto& communicator : made) RETURN_IF_ERROR(communicator->Barrier(deadline));
    return made;
  }

 private:
  const std::shared_ptr<RegionWorld> world_;
  const int64_t piece_;
};

std::byte PatternByte(uint64_t seed, int from, int to, size_t i) {
  uint64_t x = seed ^ (uint64_t(from) << 40) ^ (uint64_t(to) << 20) ^ (i * 0x9E3779B97F4A7C15u);
  x ^= x >> 29;
  x *= 0xBF58476D1CE4E5B9u;
  return static_cast<std::byte>(x >> 56);
}

std::vector<std::byte> Pattern(uint64_t seed, int from, int to, size_t bytes) {
  std::vector<std::byte> pattern(bytes);
  for (size_t i = 0; i < bytes; ++i) pattern[i] = PatternByte(seed, from, to, i);
  return pattern;
}

absl::Status CheckPattern(absl::Span<const std::byte> got, uint64_t seed, int from, int to) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (got[i] == PatternByte(seed, from, to, i)) continue;
    return absl::DataLossError(absl::StrCat("byte ", i, " of ", got.size(), " from place ", from,
                                            " to place ", to, " is wrong"));
  }
  return absl::OkStatus();
}

absl::Status OneAllGather(Communicator* communicator, uint64_t seed,
                          const std::vector<int64_t>& bytes, bool in_place, TimePoint deadline) {
  int rank = communicator->rank();
  int64_t sum = 0;
  int64_t own_offset = 0;
  for (int r = 0; r < communicator->size(); ++r) {
    if (r == rank) own_offset = sum;
    sum += bytes[r];
  }
  std::vector<std::byte> all(sum);
  std::vector<std::byte> mine = Pattern(seed, rank, 0, bytes[rank]);
  absl::Span<const std::byte> sent = mine;
  if (in_place) {
    std::copy(mine.begin(), mine.end(), all.begin() + own_offset);
    sent = absl::MakeConstSpan(all).subspan(own_offset, mine.size());
  }
  RETURN_IF_ERROR(communicator->AllGather(sent, bytes, absl::MakeSpan(all), deadline));
  int64_t offset = 0;
  for (int r = 0; r < communicator->size(); ++r) {
    RETURN_IF_ERROR(CheckPattern(absl::MakeConstSpan(all).subspan(offset, bytes[r]), seed, r, 0));
    offset += bytes[r];
  }
  return absl::OkStatus();
}

// bytes[from][to]
absl::Status OneAllToAll(Communicator* communicator, uint64_t seed,
                         const std::vector<std::vector<int64_t>>& bytes, TimePoint deadline) {
  int rank = communicator->rank();
  int size = communicator->size();
  std::vector<std::vector<std::byte>> sent(size);
  std::vector<std::vector<std::byte>> received(size);
  for (int r = 0; r < size; ++r) {
    sent[r] = Pattern(seed, rank, r, bytes[rank][r]);
    received[r].resize(bytes[r][rank]);
  }
  std::vector<absl::Span<const std::byte>> send(sent.begin(), sent.end());
  std::vector<absl::Span<std::byte>> receive;
  for (auto& part : received) receive.push_back(absl::MakeSpan(part));
  RETURN_IF_ERROR(communicator->AllToAll(send, receive, deadline));
  for (int r = 0; r < size; ++r) RETURN_IF_ERROR(CheckPattern(received[r], seed, r, rank));
  return absl::OkStatus();
}

}  // namespace

std::string CommKindName(CommKind kind) {
  switch (kind) {
    case CommKind::kInProcess:
      return "InProcess";
    case CommKind::kRegion:
      return "Region";
    case CommKind::kSharedMemory:
      return "SharedMemory";
    case CommKind::kGloo:
      return "Gloo";
    case CommKind::kAuto:
      return "Auto";
  }
  return "";
}

CommHarness::CommHarness(CommKind kind, int size, int64_t piece) : kind_(kind) {
  auto region = std::make_shared<RegionWorld>();
  if (kind == CommKind::kInProcess) world_ = std::make_unique<InProcessWorld>(size);
  for (int rank = 0; rank < size; ++rank) {
    SharedMemoryOptions shared_memory;
    shared_memory.max_outbox_bytes = piece;
    GlooOptions gloo;
    gloo.address = "127.0.0.1";
    gloo.max_piece_bytes = piece;
    switch (kind) {
      case CommKind::kInProcess:
        factories_.push_back(world_->factory(rank));
        continue;
      case CommKind::kRegion:
        owned_.push_back(std::make_unique<RegionFactory>(region, piece));
        break;
      case CommKind::kSharedMemory:
        owned_.push_back(MakeSharedMemoryFactory(shared_memory));
        break;
      case CommKind::kGloo:
        owned_.push_back(MakeGlooFactory(gloo));
        break;
      case CommKind::kAuto:
        owned_.push_back(MakeAutoCommunicatorFactory({shared_memory, gloo}));
        break;
    }
    factories_.push_back(owned_.back().get());
  }
  for (CommunicatorFactory* factory : factories_) {
    rendezvous_.push_back(factory->Rendezvous().value());
  }
}

CommunicatorFactory::Peers CommHarness::PeersOf(int rank) const {
  CommunicatorFactory::Peers peers;
  peers.rank = rank;
  peers.rendezvous = rendezvous_;
  // Under kAuto every third rank is elsewhere, so that groups of both kinds exist.
  for (size_t r = 0; r < rendezvous_.size(); ++r) {
    peers.hosts.push_back(kind_ == CommKind::kAuto && r % 3 == 2 ? "other" : "one");
  }
  peers.session = "session of this test";
  return peers;
}

absl::StatusOr<Communicators> CommHarness::Connect(
    int rank, absl::Span<const CommunicatorFactory::GroupSpec> groups, TimePoint deadline) {
  std::vector<CommunicatorFactory::GroupSpec> mine;
  for (const auto& group : groups) {
    if (std::count(group.ranks.begin(), group.ranks.end(), rank) > 0) mine.push_back(group);
  }
  return factories_[rank]->Connect(PeersOf(rank), mine, deadline);
}

std::vector<absl::Status> CommHarness::Run(
    const std::vector<CommunicatorFactory::GroupSpec>& groups,
    const std::function<absl::Status(int, absl::Span<Communicator* const>)>& body) {
  std::vector<absl::Status> statuses(size());
  std::barrier all_done(size());  // no rank leaves while others may still need it
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size(); ++rank) {
    threads.emplace_back([&, rank] {
      absl::StatusOr<Communicators> connected =
          Connect(rank, groups, After(std::chrono::seconds(60)));
      statuses[rank] = connected.status();
      if (connected.ok()) {
        std::vector<Communicator*> communicators;
        for (auto& communicator : *connected) communicators.push_back(communicator.get());
        statuses[rank] = body(rank, communicators);
      }
      all_done.arrive_and_wait();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return statuses;
}

TimePoint After(std::chrono::milliseconds from_now) { return Clock::Real()->Now() + from_now; }

CommunicatorFactory::GroupSpec WorldGroup(int size, int64_t max_bytes) {
  CommunicatorFactory::GroupSpec group{"world", {}, max_bytes};
  for (int rank = 0; rank < size; ++rank) group.ranks.push_back(rank);
  return group;
}

absl::Status RandomOperations(Communicator* communicator, uint64_t seed, int operations,
                              int64_t max_bytes, TimePoint deadline) {
  std::mt19937_64 random(seed);
  int size = communicator->size();
  auto draw = [&](int64_t most) -> int64_t {
    return random() % 3 == 0 ? 0 : static_cast<int64_t>(random() % (most + 1));
  };
  for (int operation = 0; operation < operations; ++operation) {
    uint64_t data = random();
    absl::Status status;
    uint64_t kind = random() % 5;
    // Now and then long messages; mostly short ones.
    int64_t most = random() % 8 == 0 ? max_bytes : std::min<int64_t>(max_bytes, 300);
    if (kind < 2) {
      std::vector<int64_t> bytes(size);
      for (int64_t& b : bytes) b = draw(most);
      status = OneAllGather(communicator, data, bytes, kind == 0, deadline);
    } else if (kind < 4) {
      std::vector<std::vector<int64_t>> bytes(size, std::vector<int64_t>(size));
      for (auto& row : bytes) {
        for (int64_t& b : row) b = draw(most / size);
      }
      status = OneAllToAll(communicator, data, bytes, deadline);
    } else {
      status = communicator->Barrier(deadline);
    }
    RETURN_IF_ERROR(Annotate(status, absl::StrCat("operation ", operation)));
  }
  return absl::OkStatus();
}

}  // namespace whalepod
