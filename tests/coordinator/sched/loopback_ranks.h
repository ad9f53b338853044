// Ranks in this process, without a fleet: a model worker behind an engine.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "base/log.h"
#include "coordinator/sched/engine.h"
#include "gtest/gtest.h"
#include "tests/coordinator/sched/model_worker.h"

namespace whalepod {

// Runs each step on a thread of its own and answers the engine, as ranks would.
class LoopbackRanks : public StepSender {
 public:
  explicit LoopbackRanks(ModelWorker::Config config)
      : worker_(std::move(config)), thread_([this] { Run(); }) {}
  ~LoopbackRanks() override {
    {
      std::lock_guard lock(mu_);
      stopping_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }
  void SendStep(v1::StepPlan step) override {
    std::lock_guard lock(mu_);
    queue_.push_back(std::move(step));
    most_queued_ = std::max(most_queued_, queue_.size());
    ++steps_;
    wake_.notify_all();
  }
  void Hold(bool hold) {
    std::lock_guard lock(mu_);
    hold_ = hold;
    wake_.notify_all();
  }
  // Answers so many steps more that sample something, then as Hold(true).
  void HoldAfter(uint64_t steps) {
    std::lock_guard lock(mu_);
    hold_after_ = steps;
  }
  // Until so many steps wait here.
  bool WaitQueued(size_t steps) {
    std::unique_lock lock(mu_);
    return wake_.wait_for(lock, std::chrono::seconds(20), [&] { return queue_.size() >= steps; });
  }
  bool WaitSteps(uint64_t steps) {
    std::unique_lock lock(mu_);
    return wake_.wait_for(lock, std::chrono::seconds(20), [&] { return steps_ >= steps; });
  }

  Engine* engine = nullptr;
  bool lose_token = false;
  size_t most_queued() {
    std::lock_guard lock(mu_);
    return most_queued_;
  }
  ModelWorker& worker() { return worker_; }

 private:
  void Run() {
    std::unique_lock lock(mu_);
    while (true) {
      wake_.wait(lock, [this] { return stopping_ || (!hold_ && !queue_.empty()); });
      if (stopping_) return;
      const v1::StepPlan step = queue_.front();
      lock.unlock();
      auto groups = worker_.Run(step);
      EXPECT_TRUE(groups.ok()) << groups.status();
      if (lose_token && !(*groups)[0].tokens.empty()) (*groups)[0].tokens.pop_back();
      const bool sampled = std::any_of(groups->begin(), groups->end(),
                                       [](const GroupResult& g) { return !g.tokens.empty(); });
      lock.lock();
      queue_.pop_front();
      if (sampled && hold_after_.has_value() && --*hold_after_ == 0) {
        hold_after_.reset();
        hold_ = true;
      }
      lock.unlock();
      engine->OnStepDone({step.step(), *std::move(groups), worker_.TakePrompt()});
      lock.lock();
    }
  }
  ModelWorker worker_;
  std::mutex mu_;
  std::condition_variable wake_;
  std::deque<v1::StepPlan> queue_;
  size_t most_queued_ = 0;
  uint64_t steps_ = 0;
  bool hold_ = false;
  std::optional<uint64_t> hold_after_;
  bool stopping_ = false;
  std::thread thread_;
};

// A running engine over such ranks, which have what `config` says.
class LoopbackEngine {
 public:
  explicit LoopbackEngine(const SchedulerConfig& config) {
    // Made here, as programs do: ThreadSanitizer does not see the lock in spdlog's library.
    spdlog::default_logger();
    ranks = std::make_unique<LoopbackRanks>(ModelWorker::ConfigFor(config));
    Engine::Options options;
    options.sender = ranks.get();
    options.idle_step = std::chrono::milliseconds(20);
    engine = std::make_unique<Engine>(options, Scheduler::Create(config).value());
    ranks->engine = engine.get();
    engine->Start();
  }
  ~LoopbackEngine() {
    engine->Stop();  // sends to the ranks
    ranks.reset();   // answer the engine
  }

  std::unique_ptr<LoopbackRanks> ranks;
  std::unique_ptr<Engine> engine;
};

}  // namespace whalepod
