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

// A fixed set of threads that runs one loop at a time; the calling thread is one of them. Used by
// one caller at a time. How a loop is cut depends on (n, grain, threads) only, and each thread
// begins with a share of its own, so that it finds its data near; but whoever is done takes over
// what others have not begun. A thread that the system has put aside holds up no more than the
// piece it is at: cores are also wanted by the coordinator and by clients.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls fn(begin, end, thread) for disjoint ranges that cover [0, n), borders at multiples of
  // `grain`; at most kPiecesPerThread times as many ranges as threads. Returns when all are done.
  // Runs inline when there is one thread or one range. Not reentrant: `fn` must not call
  // ParallelFor. Nor may it throw.
  template <typename Fn>
  void ParallelFor(int64_t n, int64_t grain, const Fn& fn) {
    Run(
        n, grain,
        [](const void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Fn*>(context))(begin, end, thread);
        },
        &fn);
  }

  static constexpr int kPiecesPerThread = 4;

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

  // Pieces of the current loop that nobody has begun: those from the lower to the upper half.
  struct alignas(64) Share {
    std::atomic<uint64_t> left{0};
  };

  void Run(int64_t n, int64_t grain, RangeFn fn, const void* context);
  // Runs pieces until all are begun, those of its own share first.
  void RunPieces(int thread) noexcept;
  void RunPiece(int64_t piece, int thread);
  enum class End { kFirst, kLast };
  // Begins the first or last piece that is left of `share`; false if none is.
  static bool Take(Share& share, End end, int64_t* piece);
  void WorkerLoop(int thread);
  // Waits until `word` differs from `old`: looks for a while, then sleeps.
  static void AwaitChange(std::atomic<uint32_t>& word, uint32_t old);

  const int threads_;
  std::vector<Buffer> thread_scratch_;
  std::vector<Share> shares_;  // of each thread
  std::vector<std::thread> workers_;

  // The current loop. Written before its shares are; read by who has taken a piece, without which
  // the loop does not end.
  int64_t n_ = 0;
  int64_t grain_ = 1;
  int64_t pieces_ = 0;
  RangeFn fn_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> done_{0};  // pieces that are done, over all loops
};

}  // namespace whalepod::cpu
