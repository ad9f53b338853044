// Threads for what takes long in a call: encoding and decoding of text.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace whalepod {

// gRPC's own threads are few and carry the workers' heartbeats too: what holds them for long makes
// healthy ranks look dead.
class WorkPool {
 public:
  // At most `max_queued` tasks wait.
  WorkPool(int threads, size_t max_queued);
  // Runs what waits, then joins.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // False if too many wait: `task` is not run then.
  bool Run(std::function<void()> task);

 private:
  void Loop();

  const size_t max_queued_;
  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace whalepod
