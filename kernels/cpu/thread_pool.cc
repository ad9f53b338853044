#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <new>

namespace whalepod::cpu {
namespace {

// Looks before a thread sleeps: the first ones are short, the others give the core to whoever wants
// it. A few hundred microseconds in all: longer than the gaps between the ops of a step and than
// what one thread is ahead of another. Waking a thread that sleeps takes tens of microseconds on a
// virtual machine, and a step has a hundred ops.
constexpr int kPauses = 256;
constexpr int kYields = 512;
constexpr std::chrono::milliseconds kYieldTime(2);  // whoever else wants the core

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
    : threads_(threads < 1 ? 1 : threads), thread_scratch_(threads_) {
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
  for (int i = 0; i < kYields && std::chrono::steady_clock::now() - start < kYieldTime; ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    sched_yield();
  }
  word.wait(old, std::memory_order_acquire);
}

void ThreadPool::RunPart(int thread) {
  const int64_t chunks = (n_ + grain_ - 1) / grain_;
  const int64_t begin = chunks * thread / threads_ * grain_;
  int64_t end = chunks * (thread + 1) / threads_ * grain_;
  if (end > n_) end = n_;
  if (begin < end) fn_(context_, begin, end, thread);
}

void ThreadPool::Run(int64_t n, int64_t grain, RangeFn fn, const void* context) {
  if (n <= 0) return;
  if (threads_ == 1 || n <= grain) {
    fn(context, 0, n, 0);
    return;
  }
  n_ = n;
  grain_ = grain;
  fn_ = fn;
  context_ = context;
  const uint32_t target = done_.load(std::memory_order_relaxed) + (threads_ - 1);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  RunPart(0);
  uint32_t done;
  while ((done = done_.load(std::memory_order_acquire)) != target) AwaitChange(done_, done);
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t seen = 0;
  while (true) {
    AwaitChange(generation_, seen);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    RunPart(thread);
    done_.fetch_add(1, std::memory_order_release);
    done_.notify_one();
  }
}

}  // namespace whalepod::cpu
