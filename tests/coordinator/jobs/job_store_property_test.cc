// Random operations on the store beside a model of it that is kept in memory, with reopenings in
// between: what it would catch is an item lost, answered twice or miscounted.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/jobs/test_store.h"

namespace whalepod {
namespace {

struct ModelItem {
  v1::JobItemState state = v1::JOB_ITEM_STATE_PENDING;
  std::string body;
};

struct ModelJob {
  int64_t key = 0;
  std::string id, idempotency_key;
  v1::JobState state = v1::JOB_STATE_QUEUED;
  int64_t expires_ms = 0;
  std::vector<ModelItem> items;
  std::vector<uint32_t> order;  // in which they ended

  void End(v1::JobState how, v1::JobItemState items_how) {
    if (IsOver(state)) return;
    state = how;
    for (uint32_t i = 0; i < items.size(); ++i) {
      if (items[i].state != v1::JOB_ITEM_STATE_PENDING) continue;
      items[i].state = items_how;
      order.push_back(i);
    }
  }
  uint32_t Count(v1::JobItemState wanted) const {
    return static_cast<uint32_t>(std::count_if(
        items.begin(), items.end(), [wanted](const ModelItem& i) { return i.state == wanted; }));
  }
};

class Property {
 public:
  explicit Property(uint32_t seed) : random_(seed) { EXPECT_TRUE(test_.Open().ok()); }

  void Step() {
    switch (Below(12)) {
      case 0:
      case 1:
        return Submit();
      case 2:
        return Cancel();
      case 3:
        test_.now_ms += Below(2000);
        ASSERT_TRUE(test_.store->Expire().ok());
        for (ModelJob& job : jobs_) {
          if (job.expires_ms <= test_.now_ms) {
            job.End(v1::JOB_STATE_EXPIRED, v1::JOB_ITEM_STATE_EXPIRED);
          }
        }
        return;
      case 4:
        ASSERT_TRUE(test_.Open().ok());
        return;
      case 5:
        return Start();
      default:
        return Finish();
    }
  }

  void Check() {
    std::vector<int64_t> active;
    for (const ModelJob& job : jobs_) {
      CheckJob(job);
      if (!IsOver(job.state)) active.push_back(job.key);
    }
    std::vector<int64_t> found;
    const auto listed = test_.store->Active();
    for (const ActiveJob& job : *listed) found.push_back(job.key);
    EXPECT_EQ(found, active);
  }

 private:
  uint32_t Below(uint32_t bound) { return static_cast<uint32_t>(random_() % bound); }
  ModelJob* Any() { return jobs_.empty() ? nullptr : &jobs_[Below(jobs_.size())]; }

  void Submit() {
    const std::string key = Below(2) == 0 ? absl::StrCat("key-", Below(8)) : "";
    NewJob wanted = JobOf(1 + Below(6), key);
    wanted.expires_after_ms = 1 + Below(20'000);
    for (NewItem& item : wanted.items) {
      if (Below(8) == 0) item.failed = AnswerOf("bad line", 400);
    }
    const auto made = test_.store->Submit(wanted);
    const auto earlier = std::find_if(jobs_.begin(), jobs_.end(), [&](const ModelJob& job) {
      return !key.empty() && job.idempotency_key == key;
    });
    if (earlier != jobs_.end()) {
      if (earlier->items.size() == wanted.items.size()) {
        ASSERT_TRUE(made.ok()) << made.status();
        EXPECT_EQ(made->id(), earlier->id);
      } else {
        EXPECT_TRUE(absl::IsAlreadyExists(made.status())) << made.status();
      }
      return;
    }
    ASSERT_TRUE(made.ok()) << made.status();
    ModelJob job;
    job.key = static_cast<int64_t>(jobs_.size()) + 1;
    job.id = made->id();
    job.idempotency_key = key;
    job.expires_ms = test_.now_ms + wanted.expires_after_ms;
    for (const NewItem& item : wanted.items) {
      if (item.failed) job.order.push_back(static_cast<uint32_t>(job.items.size()));
      job.items.push_back(item.failed ? ModelItem{v1::JOB_ITEM_STATE_FAILED, "bad line"}
                                      : ModelItem{});
    }
    if (job.order.size() == job.items.size()) job.state = v1::JOB_STATE_COMPLETED;
    jobs_.push_back(std::move(job));
  }

  void Cancel() {
    ModelJob* const job = Any();
    if (job == nullptr) return;
    job->End(v1::JOB_STATE_CANCELLED, v1::JOB_ITEM_STATE_CANCELLED);
    const auto cancelled = test_.store->Cancel("", job->id);
    ASSERT_TRUE(cancelled.ok()) << cancelled.status();
    EXPECT_EQ(cancelled->state(), job->state);
  }

  void Start() {
    ModelJob* const job = Any();
    if (job == nullptr) return;
    ASSERT_TRUE(test_.store->MarkStarted(job->key).ok());
    if (job->state == v1::JOB_STATE_QUEUED) job->state = v1::JOB_STATE_RUNNING;
  }

  // Several items at once, of which some have ended before.
  void Finish() {
    if (jobs_.empty()) return;
    std::vector<EndedItem> ended;
    for (uint32_t n = 1 + Below(3); n > 0; --n) {
      ModelJob& job = *Any();
      const uint32_t index = Below(job.items.size());
      const bool good = Below(4) > 0;
      const std::string body = absl::StrCat("answer ", ++answers_);
      ended.push_back({job.key, index, AnswerOf(body, good ? 200 : 500)});
      ModelItem& item = job.items[index];
      if (item.state != v1::JOB_ITEM_STATE_PENDING) continue;
      item = {good ? v1::JOB_ITEM_STATE_SUCCEEDED : v1::JOB_ITEM_STATE_FAILED, body};
      job.order.push_back(index);
      if (job.order.size() == job.items.size()) job.state = v1::JOB_STATE_COMPLETED;
    }
    ASSERT_TRUE(test_.store->Finish(ended).ok());
  }

  void CheckJob(const ModelJob& job) {
    const auto found = test_.store->Get("", job.id);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->state(), job.state);
    EXPECT_EQ(found->counts().total(), job.items.size());
    EXPECT_EQ(found->counts().succeeded(), job.Count(v1::JOB_ITEM_STATE_SUCCEEDED));
    EXPECT_EQ(found->counts().failed(), job.Count(v1::JOB_ITEM_STATE_FAILED));
    EXPECT_EQ(found->counts().cancelled(), job.Count(v1::JOB_ITEM_STATE_CANCELLED));
    EXPECT_EQ(found->counts().expired(), job.Count(v1::JOB_ITEM_STATE_EXPIRED));
    EXPECT_EQ(found->ended_ms() != 0, IsOver(job.state));

    std::vector<uint32_t> seen;
    while (true) {
      const auto more =
          test_.store->Watch("", job.id, static_cast<uint32_t>(seen.size()), 1 + Below(4));
      ASSERT_TRUE(more.ok());
      if (more->items_size() == 0) break;
      for (const v1::JobItem& item : more->items()) {
        EXPECT_EQ(item.ended(), seen.size());
        EXPECT_EQ(item.state(), job.items[item.index()].state);
        EXPECT_EQ(item.answer().body(), job.items[item.index()].body);
        seen.push_back(item.index());
      }
    }
    EXPECT_EQ(seen, job.order);
    uint32_t pending = 0;
    const auto items = test_.store->Pending(job.key, 0, 100);
    for (const PendingItem& item : *items) {
      EXPECT_EQ(job.items[item.index].state, v1::JOB_ITEM_STATE_PENDING);
      ++pending;
    }
    EXPECT_EQ(pending, job.Count(v1::JOB_ITEM_STATE_PENDING));
  }

  std::mt19937 random_;
  TestStore test_;
  std::vector<ModelJob> jobs_;
  uint32_t answers_ = 0;
};

TEST(JobStoreProperty, AgreesWithAModel) {
  for (uint32_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Property property(seed);
    for (int step = 0; step < 250; ++step) {
      ASSERT_NO_FATAL_FAILURE(property.Step());
      if (step % 25 == 24) {
        ASSERT_NO_FATAL_FAILURE(property.Check());
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace whalepod
