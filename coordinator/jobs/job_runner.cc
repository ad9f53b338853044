#include "coordinator/jobs/job_runner.h"

#include <algorithm>

#include "base/log.h"
#include "base/status.h"

namespace whalepod {
namespace {

// `first` doubled `times` times, at most `longest`.
Duration Backoff(Duration first, Duration longest, uint32_t times) {
  Duration wait = first;
  for (uint32_t i = 0; i < times && wait < longest; ++i) wait *= 2;
  return std::min(wait, longest);
}

}  // namespace

JobRunner::JobRunner(JobStore* store, ItemBackend* backend, const Options& options)
    : store_(store), backend_(backend), options_(options) {}

JobRunner::~JobRunner() { Stop(); }

void JobRunner::Start() {
  listener_ = store_->AddListener([this](const std::string&) {
    std::lock_guard lock(mu_);
    changed_ = true;
    wake_.notify_all();
  });
  thread_ = std::thread([this] { Loop(); });
}

void JobRunner::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mu_);
    stopping_ = true;
    wake_.notify_all();
  }
  thread_.join();
  store_->RemoveListener(listener_);
}

void JobRunner::Wake() {
  std::lock_guard lock(mu_);
  woken_ = true;
  wake_.notify_all();
}

void JobRunner::Loop() {
  for (bool stopping = false;;) {
    if (absl::Status status = Turn(); !status.ok()) {
      if (store_failures_++ == 0) spdlog::error("jobs wait: {}", status.ToString());
      store_retry_at_ = options_.clock->Now() +
                        Backoff(options_.first_retry, options_.longest_retry, store_failures_);
    } else if (store_failures_ > 0 && options_.clock->Now() >= store_retry_at_) {
      spdlog::info("jobs go on: the store can be written again");
      store_failures_ = 0;
    }
    const bool idle = std::none_of(items_.begin(), items_.end(),
                                   [](const auto& entry) { return entry.second.started; });
    if (stopping && idle) return;
    std::unique_lock lock(mu_);
    const Duration wait = std::min<Duration>(NextDue() - options_.clock->Now(), options_.look);
    wake_.wait_for(lock, std::max(wait, Duration(0)), [this, stopping] {
      return (stopping_ && !stopping) || woken_ || changed_ || !done_.empty();
    });
    woken_ = false;
    if (!stopping_ || stopping) continue;
    stopping = true;
    lock.unlock();
    for (auto& [key, item] : items_) {
      if (item.call != nullptr) item.call->Cancel();
    }
  }
}

absl::Status JobRunner::Turn() {
  const TimePoint now = options_.clock->Now();
  const bool store_rests = store_failures_ > 0 && now < store_retry_at_;
  bool stopping = false;
  std::map<Key, absl::StatusOr<v1::JobAnswer>> done;
  {
    std::lock_guard lock(mu_);
    done.swap(done_);
    stopping = stopping_;
    jobs_changed_ = std::exchange(changed_, false) || jobs_changed_;
  }
  for (auto& [key, answer] : done) Take(key, std::move(answer));
  if (store_rests) return absl::OkStatus();
  RETURN_IF_ERROR(KeepAnswers());
  if (now >= expiry_at_) {
    RETURN_IF_ERROR(store_->Expire());
    // Nothing waits for it; an error of the disk itself stops the next write.
    if (const auto dropped = store_->Drop(); !dropped.ok()) {
      spdlog::warn("old jobs are not dropped: {}", dropped.status().ToString());
    }
    expiry_at_ = now + options_.look;
  }
  if (jobs_changed_) RETURN_IF_ERROR(TakeJobs());
  jobs_changed_ = false;
  if (stopping) return absl::OkStatus();
  RETURN_IF_ERROR(TakeItems());
  StartDue();
  return absl::OkStatus();
}

void JobRunner::Take(const Key& key, absl::StatusOr<v1::JobAnswer> answer) {
  const auto it = items_.find(key);
  Item& item = it->second;
  item.started = false;
  item.call.reset();
  if (answer.ok()) {
    answers_.push_back({key.first, key.second, *std::move(answer)});
    item.answered = true;
    return;
  }
  if (item.unwanted) {
    items_.erase(it);
    return;
  }
  const Duration wait = Backoff(options_.first_retry, options_.longest_retry, item.tries++);
  item.retry_at = options_.clock->Now() + wait;
  spdlog::debug("{} item {}: tried again in {} ms: {}", item.item.job_id, key.second,
                wait.count() / 1000000, answer.status().ToString());
}

absl::Status JobRunner::KeepAnswers() {
  if (answers_.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(store_->Finish(answers_));
  for (const EndedItem& answer : answers_) items_.erase({answer.job, answer.index});
  answers_.clear();
  return absl::OkStatus();
}

absl::Status JobRunner::TakeJobs() {
  ASSIGN_OR_RETURN(const std::vector<ActiveJob> active, store_->Active());
  std::map<int64_t, Job> known;
  for (const Job& job : jobs_) known[job.job.key] = job;
  std::map<int64_t, bool> live;
  jobs_.clear();
  for (const ActiveJob& job : active) {
    const auto it = known.find(job.key);
    jobs_.push_back(it == known.end() ? Job{.job = job} : it->second);
    live[job.key] = true;
  }
  // Of jobs that have ended: cancelled, or expired.
  for (auto it = items_.begin(); it != items_.end();) {
    Item& item = it->second;
    if (live.contains(it->first.first) || item.answered || item.unwanted) {
      ++it;
    } else if (item.started) {
      item.unwanted = true;
      if (item.call != nullptr) item.call->Cancel();
      ++it;
    } else {
      it = items_.erase(it);
    }
  }
  return absl::OkStatus();
}

absl::Status JobRunner::TakeItems() {
  for (Job& job : jobs_) {
    if (items_.size() >= options_.most_in_flight) return absl::OkStatus();
    if (job.taken) continue;
    const uint32_t room = options_.most_in_flight - static_cast<uint32_t>(items_.size());
    ASSIGN_OR_RETURN(std::vector<PendingItem> items, store_->Pending(job.job.key, job.next, room));
    if (items.size() < room) job.taken = true;
    if (!items.empty() && !job.started) {
      RETURN_IF_ERROR(store_->MarkStarted(job.job.key));
      job.started = true;
    }
    for (PendingItem& item : items) {
      job.next = item.index + 1;
      const Key key(item.job, item.index);
      items_[key].item = std::move(item);
    }
  }
  return absl::OkStatus();
}

void JobRunner::StartDue() {
  const TimePoint now = options_.clock->Now();
  for (auto& [key, item] : items_) {
    if (item.started || item.answered || item.retry_at > now) continue;
    item.started = true;
    item.call = backend_->Start(item.item, [this, key](absl::StatusOr<v1::JobAnswer> answer) {
      std::lock_guard lock(mu_);
      done_.emplace(key, std::move(answer));
      wake_.notify_all();
    });
  }
}

TimePoint JobRunner::NextDue() const {
  if (store_failures_ > 0) return store_retry_at_;
  TimePoint due = expiry_at_;
  for (const auto& [key, item] : items_) {
    if (!item.started && !item.answered) due = std::min(due, item.retry_at);
  }
  return due;
}

}  // namespace whalepod
