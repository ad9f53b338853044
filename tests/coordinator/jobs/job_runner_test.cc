#include "coordinator/jobs/job_runner.h"

#include <gmock/gmock.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/jobs/test_store.h"

namespace whalepod {
namespace {

constexpr std::chrono::seconds kLong(30);

// Items wait here until the test ends them.
class FakeBackend : public ItemBackend {
 public:
  std::shared_ptr<ItemCall> Start(const PendingItem& item, Done done) override {
    std::lock_guard lock(mu_);
    const std::string name = absl::StrCat(item.job, ":", item.index);
    ++starts_[name];
    waiting_[name] = std::move(done);
    most_ = std::max(most_, waiting_.size());
    changed_.notify_all();
    return std::make_shared<Call>(this, name);
  }

  // Ends one as soon as it is there.
  void End(const std::string& name, absl::StatusOr<v1::JobAnswer> answer) {
    Done done;
    {
      std::unique_lock lock(mu_);
      ASSERT_TRUE(changed_.wait_for(lock, kLong, [&] { return waiting_.contains(name); })) << name;
      done = std::move(waiting_[name]);
      waiting_.erase(name);
    }
    done(std::move(answer));
  }
  // Ends all that are there, and waits for at least one.
  void EndSome(size_t* ended) {
    std::map<std::string, Done> waiting;
    {
      std::unique_lock lock(mu_);
      ASSERT_TRUE(changed_.wait_for(lock, kLong, [&] { return !waiting_.empty(); }));
      waiting.swap(waiting_);
    }
    for (auto& [name, done] : waiting) done(AnswerOf(name));
    *ended += waiting.size();
  }
  bool WaitWaiting(size_t count) {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, kLong, [&] { return waiting_.size() == count; });
  }
  std::set<std::string> Waiting() {
    std::lock_guard lock(mu_);
    std::set<std::string> names;
    for (const auto& [name, done] : waiting_) names.insert(name);
    return names;
  }
  size_t most() {
    std::lock_guard lock(mu_);
    return most_;
  }
  int starts(const std::string& name) {
    std::lock_guard lock(mu_);
    return starts_[name];
  }

 private:
  struct Call : ItemCall {
    Call(FakeBackend* backend, std::string name) : backend(backend), name(std::move(name)) {}
    void Cancel() override {
      Done done;
      {
        std::lock_guard lock(backend->mu_);
        const auto it = backend->waiting_.find(name);
        if (it == backend->waiting_.end()) return;
        done = std::move(it->second);
        backend->waiting_.erase(it);
        backend->changed_.notify_all();
      }
      done(absl::CancelledError("cancelled"));
    }
    FakeBackend* const backend;
    const std::string name;
  };

  std::mutex mu_;
  std::condition_variable changed_;
  std::map<std::string, Done> waiting_;
  std::map<std::string, int> starts_;
  size_t most_ = 0;
};

class JobRunnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test_.Open().ok());
    test_.store->AddListener([this](const std::string&) {
      std::lock_guard lock(mu_);
      ++changes_;
      changed_.notify_all();
    });
  }
  void Begin(uint32_t most_in_flight = 4) {
    JobRunner::Options options;
    options.most_in_flight = most_in_flight;
    options.clock = &clock_;
    runner_ = std::make_unique<JobRunner>(test_.store.get(), &backend_, options);
    runner_->Start();
  }
  v1::Job Submit(uint32_t items, int32_t priority = 100) {
    NewJob job = JobOf(items);
    job.priority = priority;
    return test_.store->Submit(job).value();
  }
  v1::Job WaitOver(const v1::Job& job) {
    std::unique_lock lock(mu_);
    v1::Job now;
    const auto over = [&] {
      now = test_.store->Get("", job.id()).value();
      return IsOver(now.state());
    };
    EXPECT_TRUE(changed_.wait_for(lock, kLong, over)) << now.DebugString();
    return now;
  }

  FakeClock clock_;
  TestStore test_;
  FakeBackend backend_;
  std::mutex mu_;
  std::condition_variable changed_;
  int changes_ = 0;
  std::unique_ptr<JobRunner> runner_;
};

TEST_F(JobRunnerTest, EveryItemIsAnsweredAndFewAtATime) {
  Begin();
  const v1::Job first = Submit(23), second = Submit(9);
  ASSERT_TRUE(backend_.WaitWaiting(4));
  for (size_t ended = 0; ended < 32;) ASSERT_NO_FATAL_FAILURE(backend_.EndSome(&ended));
  EXPECT_EQ(WaitOver(first).counts().succeeded(), 23u);
  EXPECT_EQ(WaitOver(second).counts().succeeded(), 9u);
  EXPECT_EQ(backend_.most(), 4u);
  EXPECT_EQ(backend_.starts("1:7"), 1);
  EXPECT_EQ(test_.store->Results("", second.id(), 0, "")->items(8).answer().body(), "2:8");
}

TEST_F(JobRunnerTest, TheLowerPriorityNumberGoesFirst) {
  const v1::Job low = Submit(2), high = Submit(2, 1);
  Begin(/*most_in_flight=*/2);
  ASSERT_TRUE(backend_.WaitWaiting(2));
  EXPECT_EQ(backend_.Waiting(), (std::set<std::string>{"2:0", "2:1"}));
  for (size_t ended = 0; ended < 4;) ASSERT_NO_FATAL_FAILURE(backend_.EndSome(&ended));
  WaitOver(low);
  WaitOver(high);
}

TEST_F(JobRunnerTest, WhatMayBeTriedAgainIs) {
  Begin();
  const v1::Job job = Submit(1);
  backend_.End("1:0", absl::UnavailableError("not ready"));
  // Each wait is twice the one before; nothing starts before it is over.
  for (const int wait_ms : {100, 200, 400}) {
    const int before = backend_.starts("1:0");
    clock_.Advance(std::chrono::milliseconds(wait_ms - 1));
    runner_->Wake();
    EXPECT_EQ(backend_.starts("1:0"), before);
    // The runner may take the end only now, and counts from then.
    do {
      clock_.Advance(std::chrono::milliseconds(wait_ms));
      runner_->Wake();
      std::this_thread::yield();
    } while (backend_.starts("1:0") == before);
    backend_.End("1:0", absl::ResourceExhaustedError("queue full"));
  }
  while (backend_.starts("1:0") == 4) {
    clock_.Advance(std::chrono::seconds(1));
    runner_->Wake();
    std::this_thread::yield();
  }
  backend_.End("1:0", AnswerOf("at last"));
  EXPECT_EQ(WaitOver(job).counts().succeeded(), 1u);
}

TEST_F(JobRunnerTest, ACancelledJobsItemsAreCancelled) {
  Begin();
  const v1::Job job = Submit(10);
  ASSERT_TRUE(backend_.WaitWaiting(4));
  ASSERT_TRUE(test_.store->Cancel("", job.id()).ok());
  ASSERT_TRUE(backend_.WaitWaiting(0));
  EXPECT_EQ(test_.store->Get("", job.id())->counts().cancelled(), 10u);
  // Its places are free again.
  const v1::Job next = Submit(4);
  ASSERT_TRUE(backend_.WaitWaiting(4));
  size_t ended = 0;
  backend_.EndSome(&ended);
  EXPECT_EQ(WaitOver(next).counts().succeeded(), 4u);
}

TEST_F(JobRunnerTest, AnExpiredJobsItemsAreCancelled) {
  Begin();
  const v1::Job job = Submit(2);
  ASSERT_TRUE(backend_.WaitWaiting(2));
  test_.now_ms += 60'000;
  clock_.Advance(std::chrono::seconds(2));
  runner_->Wake();
  ASSERT_TRUE(backend_.WaitWaiting(0));
  EXPECT_EQ(WaitOver(job).state(), v1::JOB_STATE_EXPIRED);
}

TEST_F(JobRunnerTest, TheNextRunnerGoesOn) {
  Begin();
  const v1::Job job = Submit(6);
  backend_.End("1:1", AnswerOf("before"));
  ASSERT_TRUE(backend_.WaitWaiting(4));
  runner_->Stop();
  EXPECT_EQ(backend_.Waiting().size(), 0u);
  EXPECT_EQ(test_.store->Get("", job.id())->counts().succeeded(), 1u);
  runner_.reset();
  ASSERT_TRUE(test_.Open().ok());
  Begin();
  for (size_t ended = 0; ended < 5;) ASSERT_NO_FATAL_FAILURE(backend_.EndSome(&ended));
  while (!IsOver(test_.store->Get("", job.id())->state())) std::this_thread::yield();
  EXPECT_EQ(test_.store->Get("", job.id())->counts().succeeded(), 6u);
  EXPECT_EQ(backend_.starts("1:1"), 1);
  EXPECT_EQ(test_.store->Results("", job.id(), 0, "")->items(1).answer().body(), "before");
}

// Answers wait for room on the disk; meanwhile nothing new is begun.
TEST_F(JobRunnerTest, AFullDiskKeepsAnswersWaiting) {
  const v1::Job job = Submit(3);
  ASSERT_TRUE(test_.Open(/*most_pages=*/40).ok());
  Begin(/*most_in_flight=*/2);
  backend_.End("1:0", AnswerOf(std::string(1 << 20, 'x')));
  ASSERT_TRUE(backend_.WaitWaiting(1));
  for (int i = 0; i < 50; ++i) {
    clock_.Advance(std::chrono::seconds(10));
    runner_->Wake();
    EXPECT_LE(backend_.Waiting().size(), 1u);
  }
  EXPECT_EQ(test_.store->Get("", job.id())->counts().succeeded(), 0u);
  runner_->Stop();
  runner_.reset();
  ASSERT_TRUE(test_.Open().ok());
  Begin(2);
  for (size_t ended = 0; ended < 3;) ASSERT_NO_FATAL_FAILURE(backend_.EndSome(&ended));
  while (!IsOver(test_.store->Get("", job.id())->state())) std::this_thread::yield();
  EXPECT_EQ(test_.store->Get("", job.id())->counts().succeeded(), 3u);
}

}  // namespace
}  // namespace whalepod
