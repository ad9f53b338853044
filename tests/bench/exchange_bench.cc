// The exchange of one row-parallel product's partial sums (AllToAll of slices, then AllGather of
// the sums) between processes: our communicators against a bare futex exchange that checks
// nothing, can't be aborted and has no deadline. Prints a line per implementation and group size:
// median time of an exchange and its ratio to the bare one of the same run.
//
//   exchange_bench [FLOATS [EXCHANGES_PER_BATCH [YIELDS]]]
// YIELDS: how often shared memory looks before it sleeps (SharedMemoryOptions::yields).
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "base/check.h"
#include "worker/comm/gloo.h"
#include "worker/comm/shared_memory.h"

namespace whalepod {
namespace {

constexpr int kMaxRanks = 8;
constexpr int kBatches = 15;

// Shared by all processes of a run: the bare exchange, and what the processes tell each other.
struct Shared {
  alignas(64) std::atomic<uint32_t> arrived;
  alignas(64) std::atomic<uint32_t> gate;
  char rendezvous[2][kMaxRanks][128];
  double microseconds[3][kBatches];
};

class Bare {
 public:
  Bare(Shared* shared, std::byte* outboxes, int rank, int size, size_t bytes)
      : shared_(shared), outboxes_(outboxes), rank_(rank), size_(size), bytes_(bytes) {}

  void Barrier() {
    uint32_t closed = shared_->gate.load(std::memory_order_acquire);
    if (shared_->arrived.fetch_add(1) + 1 == static_cast<uint32_t>(size_)) {
      shared_->arrived.store(0);
      shared_->gate.fetch_add(1);
      syscall(SYS_futex, &shared_->gate, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
      return;
    }
    while (shared_->gate.load(std::memory_order_acquire) == closed) {
      syscall(SYS_futex, &shared_->gate, FUTEX_WAIT, closed, nullptr, nullptr, 0);
    }
  }

  // partial, sums: bytes_ each; slices: bytes_, the slice of every rank.
  void Exchange(const std::byte* partial, std::byte* slices, std::byte* sums) {
    size_t slice = bytes_ / size_;
    std::memcpy(Outbox(0, rank_), partial, bytes_);
    Barrier();
    for (int r = 0; r < size_; ++r) {
      std::memcpy(slices + r * slice, Outbox(0, r) + rank_ * slice, slice);
    }
    std::memcpy(Outbox(1, rank_), slices, slice);
    Barrier();
    for (int r = 0; r < size_; ++r) std::memcpy(sums + r * slice, Outbox(1, r), slice);
  }

 private:
  std::byte* Outbox(int half, int rank) const {
    return outboxes_ + (static_cast<size_t>(half) * size_ + rank) * bytes_;
  }

  Shared* const shared_;
  std::byte* const outboxes_;
  const int rank_;
  const int size_;
  const size_t bytes_;
};

void Exchange(Communicator* communicator, absl::Span<std::byte> partial,
              absl::Span<std::byte> slices, absl::Span<std::byte> sums) {
  int size = communicator->size();
  size_t slice = partial.size() / size;
  TimePoint deadline = Clock::Real()->Now() + std::chrono::seconds(60);
  absl::Span<const std::byte> send[kMaxRanks];
  absl::Span<std::byte> receive[kMaxRanks];
  int64_t bytes[kMaxRanks];
  for (int r = 0; r < size; ++r) {
    send[r] = partial.subspan(r * slice, slice);
    receive[r] = slices.subspan(r * slice, slice);
    bytes[r] = static_cast<int64_t>(slice);
  }
  size_t count = size;
  CHECK_OK(communicator->AllToAll({send, count}, {receive, count}, deadline));
  CHECK_OK(communicator->AllGather(slices.first(slice), {bytes, count}, sums, deadline));
}

std::unique_ptr<Communicator> Connect(CommunicatorFactory* factory, char (*blobs)[128], int rank,
                                      int size, size_t bytes, Bare* bare) {
  std::string own = factory->Rendezvous().value();
  std::snprintf(blobs[rank], sizeof(blobs[rank]), "%s", own.c_str());
  bare->Barrier();
  CommunicatorFactory::Peers peers;
  CommunicatorFactory::GroupSpec group{"bench", {}, static_cast<int64_t>(bytes)};
  peers.rank = rank;
  peers.session = "bench";
  for (int r = 0; r < size; ++r) {
    peers.rendezvous.push_back(blobs[r]);
    peers.hosts.push_back("here");
    group.ranks.push_back(r);
  }
  auto made = factory->Connect(peers, {&group, 1}, Clock::Real()->Now() + std::chrono::seconds(60));
  CHECK_OK(made);
  return std::move(made->front());
}

void RunRank(Shared* shared, std::byte* outboxes, int rank, int size, size_t bytes, int count,
             int yields) {
  Bare bare(shared, outboxes, rank, size, bytes);
  SharedMemoryOptions memory_options;
  memory_options.yields = yields;
  auto memory_factory = MakeSharedMemoryFactory(memory_options);
  GlooOptions gloo_options;
  gloo_options.address = "127.0.0.1";
  auto gloo_factory = MakeGlooFactory(gloo_options);
  auto memory = Connect(memory_factory.get(), shared->rendezvous[0], rank, size, bytes, &bare);
  auto gloo = Connect(gloo_factory.get(), shared->rendezvous[1], rank, size, bytes, &bare);
  std::vector<std::byte> partial(bytes, static_cast<std::byte>(rank));
  std::vector<std::byte> slices(bytes);
  std::vector<std::byte> sums(bytes);
  std::function<void()> exchanges[3] = {
      [&] { bare.Exchange(partial.data(), slices.data(), sums.data()); },
      [&] {
        Exchange(memory.get(), absl::MakeSpan(partial), absl::MakeSpan(slices),
                 absl::MakeSpan(sums));
      },
      [&] {
        Exchange(gloo.get(), absl::MakeSpan(partial), absl::MakeSpan(slices), absl::MakeSpan(sums));
      }};
  // Batches alternate, so that what else the machine does hits all alike.
  for (int batch = 0; batch < kBatches; ++batch) {
    for (int kind = 0; kind < 3; ++kind) {
      int times = kind == 2 ? std::max(1, count / 20) : count;
      for (int i = 0; i < times / 10; ++i) exchanges[kind]();
      bare.Barrier();
      auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < times; ++i) exchanges[kind]();
      std::chrono::duration<double, std::micro> taken = std::chrono::steady_clock::now() - start;
      if (rank == 0) shared->microseconds[kind][batch] = taken.count() / times;
      bare.Barrier();
    }
  }
}

void* MapShared(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED);
  return memory;
}

void RunWorld(int size, size_t bytes, int count, int yields) {
  auto* shared = new (MapShared(sizeof(Shared))) Shared();
  auto* outboxes = static_cast<std::byte*>(MapShared(2 * size * bytes));
  for (int rank = 0; rank < size; ++rank) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    RunRank(shared, outboxes, rank, size, bytes, count, yields);
    _exit(0);
  }
  for (int rank = 0; rank < size; ++rank) {
    int status = 0;
    CHECK(wait(&status) > 0 && status == 0);
  }
  const char* names[3] = {"bare futex", "shared memory", "gloo"};
  double bare = 0;
  for (int kind = 0; kind < 3; ++kind) {
    double* times = shared->microseconds[kind];
    std::sort(times, times + kBatches);
    double median = times[kBatches / 2];
    if (kind == 0) bare = median;
    std::printf("%d processes  %-14s %9.2f us (least %.2f)  ratio to bare %.2f\n", size,
                names[kind], median, times[0], median / bare);
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) {
  size_t floats = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 7168;
  int count = argc > 2 ? std::atoi(argv[2]) : 2000;
  int yields = argc > 3 ? std::atoi(argv[3]) : whalepod::SharedMemoryOptions().yields;
  for (int size : {2, 4}) whalepod::RunWorld(size, floats * sizeof(float), count, yields);
  return 0;
}
