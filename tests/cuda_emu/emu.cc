#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "cuda_runtime.h"

struct CudaEmuStream {
  std::deque<std::function<bool()>> queue;  // false: the launch failed
};

namespace cuda_emu {
namespace {

constexpr size_t kFiberStack = 64 * 1024;
constexpr size_t kSharedLimit = 227 * 1024;  // of a block on Hopper

enum class FiberState { kReady, kAtBarrier, kDone };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  ThreadContext thread;
  FiberState state = FiberState::kReady;
};

// One block at a time; blocks run one after the other in a shuffled order.
class Block {
 public:
  Block(dim3 grid, dim3 block, dim3 index, const std::function<void()>& kernel, uint64_t seed)
      : kernel_(kernel), random_(seed) {
    for (unsigned z = 0; z < block.z; ++z) {
      for (unsigned y = 0; y < block.y; ++y) {
        for (unsigned x = 0; x < block.x; ++x) {
          auto fiber = std::make_unique<Fiber>();
          fiber->thread = {dim3(x, y, z), index, block, grid};
          fibers_.push_back(std::move(fiber));
        }
      }
    }
  }

  // False if some threads wait at a barrier that others have left for good.
  bool Run();

  void Wait() {
    running_->state = FiberState::kAtBarrier;
    swapcontext(&running_->context, &scheduler_);
  }
  const ThreadContext& thread() const { return running_->thread; }
  void* Shared(const void* id, size_t bytes);

 private:
  static void Enter();
  void Resume(Fiber* fiber);

  const std::function<void()>& kernel_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::map<const void*, std::vector<char>> shared_;
  size_t shared_bytes_ = 0;
  Fiber* running_ = nullptr;
  ucontext_t scheduler_;
};

thread_local Block* current_block = nullptr;

void Block::Enter() {
  Block* block = current_block;
  block->kernel_();
  block->running_->state = FiberState::kDone;
  swapcontext(&block->running_->context, &block->scheduler_);
}

void Block::Resume(Fiber* fiber) {
  if (fiber->stack == nullptr) {
    fiber->stack = std::make_unique<char[]>(kFiberStack);
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = kFiberStack;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, &Block::Enter, 0);
  }
  running_ = fiber;
  swapcontext(&scheduler_, &fiber->context);
}

bool Block::Run() {
  current_block = this;
  std::vector<Fiber*> order;
  for (auto& fiber : fibers_) order.push_back(fiber.get());
  while (true) {
    std::shuffle(order.begin(), order.end(), random_);
    size_t done = 0, waiting = 0;
    for (Fiber* fiber : order) {
      if (fiber->state == FiberState::kReady) Resume(fiber);
      done += fiber->state == FiberState::kDone;
      waiting += fiber->state == FiberState::kAtBarrier;
    }
    if (done == order.size()) break;
    if (waiting != order.size()) {
      current_block = nullptr;
      return false;
    }
    for (Fiber* fiber : order) fiber->state = FiberState::kReady;
  }
  current_block = nullptr;
  return true;
}

void* Block::Shared(const void* id, size_t bytes) {
  auto [at, inserted] = shared_.try_emplace(id);
  if (inserted) {
    shared_bytes_ += bytes;
    if (shared_bytes_ > kSharedLimit) std::abort();
    at->second.assign(bytes, static_cast<char>(0xcb));  // poison: shared memory starts undefined
  }
  return at->second.data();
}

uint64_t Seed() {
  const char* text = std::getenv("WHALEPOD_EMU_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

bool RunGrid(dim3 grid, dim3 block, const std::function<void()>& kernel) {
  std::vector<dim3> order;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) order.emplace_back(x, y, z);
    }
  }
  std::mt19937_64 random(Seed());
  std::shuffle(order.begin(), order.end(), random);
  for (const dim3& index : order) {
    if (!Block(grid, block, index, kernel, random()).Run()) return false;
  }
  return true;
}

std::mutex memory_mutex;
std::map<uintptr_t, size_t>& Allocations() {
  static auto* const allocations = new std::map<uintptr_t, size_t>;
  return *allocations;
}

bool IsDevice(const void* pointer, size_t bytes) {
  std::lock_guard<std::mutex> lock(memory_mutex);
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  auto after = Allocations().upper_bound(address);
  if (after == Allocations().begin()) return false;
  --after;
  return address + bytes <= after->first + after->second;
}

}  // namespace

const ThreadContext& Current() { return current_block->thread(); }
void SyncThreads() { current_block->Wait(); }
void* BlockShared(const void* id, size_t bytes) { return current_block->Shared(id, bytes); }

cudaError_t Launch(dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                   std::function<void()> kernel) {
  const uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || smem > kSharedLimit || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.y > 65535 || grid.z > 65535 || stream == nullptr) {
    return cudaErrorInvalidConfiguration;
  }
  stream->queue.push_back([=] { return RunGrid(grid, block, kernel); });
  return cudaSuccess;
}

}  // namespace cuda_emu

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
  }
  return "unrecognized error code";
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  *pointer = std::malloc(bytes == 0 ? 1 : bytes);
  if (*pointer == nullptr) return cudaErrorMemoryAllocation;
  std::lock_guard<std::mutex> lock(cuda_emu::memory_mutex);
  cuda_emu::Allocations()[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  std::lock_guard<std::mutex> lock(cuda_emu::memory_mutex);
  if (cuda_emu::Allocations().erase(reinterpret_cast<uintptr_t>(pointer)) == 0) {
    return cudaErrorInvalidValue;
  }
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const bool to_device = kind == cudaMemcpyHostToDevice;
  if (cuda_emu::IsDevice(to, bytes) != to_device || cuda_emu::IsDevice(from, bytes) == to_device) {
    return cudaErrorInvalidValue;
  }
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new CudaEmuStream;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  bool good = true;
  while (!stream->queue.empty()) {
    good = stream->queue.front()() && good;
    stream->queue.pop_front();
  }
  return good ? cudaSuccess : cudaErrorLaunchFailure;
}
