#include "coordinator/cli/bench/load.h"

#include <sys/resource.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

#include "base/check.h"

namespace whalepod {
namespace {

double CpuSeconds() {
  rusage usage;
  CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Threads that run what is due; as many as were ever needed at once, up to a limit.
class Runners {
 public:
  Runners(size_t limit, std::function<void(size_t)> run) : limit_(limit), run_(std::move(run)) {}
  ~Runners() {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Add(size_t index) {
    std::lock_guard lock(mu_);
    due_.push_back(index);
    if (idle_ < due_.size() && threads_.size() < limit_) {
      threads_.emplace_back([this] { Loop(); });
    } else {
      wake_.notify_one();
    }
  }

 private:
  void Loop() {
    std::unique_lock lock(mu_);
    for (;;) {
      ++idle_;
      wake_.wait(lock, [this] { return stopping_ || !due_.empty(); });
      --idle_;
      if (due_.empty()) return;
      const size_t index = due_.front();
      due_.pop_front();
      lock.unlock();
      run_(index);
      lock.lock();
    }
  }

  const size_t limit_;
  const std::function<void(size_t)> run_;
  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<size_t> due_;
  size_t idle_ = 0;  // threads that wait
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace

LoadRun RunLoad(LoadTarget& target, const std::vector<v1::GenerateRequest>& requests,
                const std::vector<double>& arrivals, size_t max_concurrency) {
  CHECK(requests.size() == arrivals.size());
  LoadRun run;
  run.records.resize(requests.size());
  const double cpu_before = CpuSeconds();
  const LoadClock clock(Clock::Real());
  {
    const size_t limit = max_concurrency == 0 ? requests.size() : max_concurrency;
    Runners runners(limit, [&](size_t i) {
      LoadRecord& record = run.records[i];
      record.due = arrivals[i];
      record.start = clock.Now();
      target.Run(requests[i], clock, &record);
      record.end = clock.Now();
    });
    for (size_t i = 0; i < requests.size(); ++i) {
      std::this_thread::sleep_until(clock.start() + std::chrono::duration<double>(arrivals[i]));
      runners.Add(i);
    }
  }
  run.duration = clock.Now();
  run.cpu_seconds = CpuSeconds() - cpu_before;
  return run;
}

}  // namespace whalepod
