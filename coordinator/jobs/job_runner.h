// Has the items of all jobs answered, a few at a time, until each has ended.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {

// One item that is being answered.
class ItemCall {
 public:
  virtual ~ItemCall() = default;
  // Asks for an early end, which `done` still tells of.
  virtual void Cancel() = 0;
};

// What answers items: the engine behind the API's validation. Here so that jobs do not depend on
// the API.
class ItemBackend {
 public:
  virtual ~ItemBackend() = default;
  // An answer to be kept; or UNAVAILABLE or RESOURCE_EXHAUSTED: try again; or CANCELLED.
  using Done = std::function<void(absl::StatusOr<v1::JobAnswer>)>;
  // Calls `done` once, from any thread; maybe before this returns, which may give null then.
  virtual std::shared_ptr<ItemCall> Start(const PendingItem& item, Done done) = 0;
};

// Its thread starts with Start and ends with Stop. Items that are under way then are left as they
// were: the next runner of the store begins them anew. So does one after kill -9.
class JobRunner {
 public:
  struct Options {
    uint32_t most_in_flight = 32;  // those that wait to be tried again count too
    Duration first_retry = std::chrono::milliseconds(100);  // doubled each time
    Duration longest_retry = std::chrono::seconds(5);
    Duration look = std::chrono::seconds(1);  // how often expiry is looked at
    const Clock* clock = Clock::Real();
  };

  // Both outlive this.
  JobRunner(JobStore* store, ItemBackend* backend, const Options& options);
  ~JobRunner();

  void Start();
  // Returns once no item is under way.
  void Stop();
  // Looks at clock and store now.
  void Wake();

 private:
  using Key = std::pair<int64_t, uint32_t>;  // job, index
  struct Item {
    PendingItem item;
    std::shared_ptr<ItemCall> call;  // while it is started
    bool started = false;            // the backend has it
    bool answered = false;           // the answer waits for the disk
    bool unwanted = false;           // its job has ended; the backend has been told
    uint32_t tries = 0;
    TimePoint retry_at{};
  };
  // A job that has not ended.
  struct Job {
    ActiveJob job;
    uint32_t next = 0;   // the items before it have been taken
    bool taken = false;  // all have
    bool started = false;
  };

  // All on the runner's thread, without the lock. Errors are the store's.
  void Loop();
  absl::Status Turn();
  void Take(const Key& key, absl::StatusOr<v1::JobAnswer> answer);
  absl::Status KeepAnswers();
  absl::Status TakeJobs();
  absl::Status TakeItems();
  void StartDue();
  TimePoint NextDue() const;

  JobStore* const store_;
  ItemBackend* const backend_;
  const Options options_;
  int listener_ = -1;

  std::mutex mu_;
  std::condition_variable wake_;
  bool stopping_ = false;
  bool changed_ = false;  // jobs have come or ended
  bool woken_ = false;
  std::map<Key, absl::StatusOr<v1::JobAnswer>> done_;  // by the backend
  std::thread thread_;

  // The thread's own.
  std::vector<Job> jobs_;  // in the order of their turns
  std::map<Key, Item> items_;
  std::vector<EndedItem> answers_;  // not yet on disk
  bool jobs_changed_ = true;        // since TakeJobs
  TimePoint expiry_at_{};
  TimePoint store_retry_at_{};
  uint32_t store_failures_ = 0;
};

}  // namespace whalepod
