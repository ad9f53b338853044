// The threads of one CPU backend.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace whalepod::cpu {

// A fixed set of threads that runs one loop at a time; the calling thread is one of them. Which
// thread gets which part depends on (n, grain, threads) only. Used by one caller at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls fn(begin, end, thread) for disjoint ranges that cover [0, n), borders at multiples of
  // `grain`; at most one range a thread. Returns when all are done. Runs inline when there is one
  // thread or one range. Not reentrant: `fn` must not call ParallelFor.
  template <typename Fn>
  void ParallelFor(int64_t n, int64_t grain, const Fn& fn) {
    Run(
        n, grain,
        [](const void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Fn*>(context))(begin, end, thread);
        },
        &fn);
  }

  // A 64-byte aligned buffer of at least `bytes`, one for each thread; `thread` is ParallelFor's,
  // called by that thread. Kept until a larger one is asked for, which invalidates it.
  void* ThreadScratch(int thread, int64_t bytes);

 private:
  using RangeFn = void (*)(const void* context, int64_t begin, int64_t end, int thread);
  struct Buffer {
    void* data = nullptr;
    int64_t bytes = 0;
    void* Get(int64_t wanted);
    ~Buffer();
  };

  void Run(int64_t n, int64_t grain, RangeFn fn, const void* context);
  void RunPart(int thread);
  void WorkerLoop(int thread);
  // Waits until `word` differs from `old`: looks for a while, then sleeps.
  static void AwaitChange(std::atomic<uint32_t>& word, uint32_t old);

  const int threads_;
  std::vector<Buffer> thread_scratch_;
  std::vector<std::thread> workers_;

  // The current loop; written before `generation_` changes.
  int64_t n_ = 0;
  int64_t grain_ = 1;
  RangeFn fn_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> done_{0};  // workers that finished, over all loops
};

}  // namespace whalepod::cpu
