#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <new>

namespace whalepod::cpu {
namespace {

// Before a thread sleeps it looks: a few times at once, then, giving the core to whoever wants it
// between two looks, for longer than the gaps between ops and steps and than what one thread is
// ahead of another. Waking a thread that sleeps takes tens of microseconds on a virtual machine,
// and a step has a hundred ops.
constexpr int kPauses = 256;
constexpr std::chrono::milliseconds kYieldTime(2);

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

void* ThreadPool::Buffer::Get(int64_t wanted) {
  if (wanted > bytes) {
    std::free(data);
    bytes = (wanted + 63) / 64 * 64;
    data = std::aligned_alloc(64, bytes);
    if (data == nullptr) throw std::bad_alloc();
  }
  return data;
}

ThreadPool::Buffer::~Buffer() { std::free(data); }

ThreadPool::ThreadPool(int threads)
    : threads_(threads < 1 ? 1 : threads), thread_scratch_(threads_), shares_(threads_) {
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { WorkerLoop(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void* ThreadPool::ThreadScratch(int thread, int64_t bytes) {
  return thread_scratch_[thread].Get(bytes);
}

void ThreadPool::AwaitChange(std::atomic<uint32_t>& word, uint32_t old) {
  for (int i = 0; i < kPauses; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < kYieldTime) {
    if (word.load(std::memory_order_acquire) != old) return;
    sched_yield();
  }
  word.wait(old, std::memory_order_acquire);
}

bool ThreadPool::Take(Share& share, End end, int64_t* piece) {
  constexpr uint64_t kOneLess = uint64_t{1} << 32;
  uint64_t left = share.left.load(std::memory_order_relaxed);
  uint64_t rest;
  do {
    if (static_cast<uint32_t>(left) == left >> 32) return false;
    rest = end == End::kFirst ? left + 1 : left - kOneLess;
    // A word of an earlier loop with the same pieces is as good: what counts is that it is current.
  } while (!share.left.compare_exchange_weak(left, rest, std::memory_order_acquire,
                                             std::memory_order_relaxed));
  *piece = static_cast<int64_t>(end == End::kFirst ? left & (kOneLess - 1) : rest >> 32);
  return true;
}

void ThreadPool::RunPiece(int64_t piece, int thread) {
  const int64_t chunks = (n_ + grain_ - 1) / grain_;
  const int64_t begin = chunks * piece / pieces_ * grain_;
  const int64_t end = std::min(chunks * (piece + 1) / pieces_ * grain_, n_);
  fn_(context_, begin, end, thread);
  done_.fetch_add(1, std::memory_order_release);
}

void ThreadPool::RunPieces(int thread) noexcept {
  int64_t piece;
  while (Take(shares_[thread], End::kFirst, &piece)) RunPiece(piece, thread);
  // Others go on with what comes next for them, and so one after the other through memory.
  for (int i = 1; i < threads_; ++i) {
    while (Take(shares_[(thread + i) % threads_], End::kLast, &piece)) RunPiece(piece, thread);
  }
}

void ThreadPool::Run(int64_t n, int64_t grain, RangeFn fn, const void* context) {
  if (n <= 0) return;
  if (threads_ == 1 || n <= grain) {
    fn(context, 0, n, 0);
    return;
  }
  n_ = n;
  grain_ = grain;
  pieces_ = std::min<int64_t>((n + grain - 1) / grain, threads_ * kPiecesPerThread);
  fn_ = fn;
  context_ = context;
  const uint32_t target = done_.load(std::memory_order_relaxed) + static_cast<uint32_t>(pieces_);
  for (int t = 0; t < threads_; ++t) {
    const auto begin = static_cast<uint64_t>(pieces_ * t / threads_);
    const auto end = static_cast<uint64_t>(pieces_ * (t + 1) / threads_);
    shares_[t].left.store(end << 32 | begin, std::memory_order_release);
  }
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  RunPieces(0);
  uint32_t done;
  while ((done = done_.load(std::memory_order_acquire)) != target) AwaitChange(done_, done);
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    AwaitChange(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    RunPieces(thread);
    done_.notify_one();
  }
}

}  // namespace whalepod::cpu
