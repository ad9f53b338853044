// A job store in a folder of its own, with a clock that tests set.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "coordinator/jobs/job_store.h"

namespace whalepod {

class TestStore {
 public:
  TestStore() {
    std::string folder = (std::filesystem::temp_directory_path() / "jobs-XXXXXX").string();
    EXPECT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  ~TestStore() {
    store.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  // The store is closed first, as a new process would find it.
  absl::Status Open(int64_t most_pages = 0) {
    store.reset();
    JobStore::Options options;
    options.path = path();
    options.now_ms = [this] { return now_ms.load(); };
    options.most_pages = most_pages;
    options.retention_ms = retention_ms;
    auto opened = JobStore::Open(options);
    if (opened.ok()) store = *std::move(opened);
    return opened.status();
  }

  std::string folder() const { return folder_; }
  std::string path() const { return folder_ + "/jobs.db"; }

  std::unique_ptr<JobStore> store;
  std::atomic<int64_t> now_ms{1'000'000};
  int64_t retention_ms = 0;

 private:
  std::string folder_;
};

// `count` items, whose requests are their numbers.
inline NewJob JobOf(uint32_t count, const std::string& key = "", const std::string& tenant = "") {
  NewJob job;
  job.tenant = tenant;
  job.idempotency_key = key;
  job.hash = "hash of " + std::to_string(count);
  job.expires_after_ms = 60'000;
  for (uint32_t i = 0; i < count; ++i) {
    NewItem item;
    item.line = i + 1;
    item.custom_id = "item-" + std::to_string(i);
    item.request = std::to_string(i);
    job.items.push_back(item);
  }
  return job;
}

inline v1::JobAnswer AnswerOf(const std::string& body, uint32_t code = 200) {
  v1::JobAnswer answer;
  answer.set_status_code(code);
  answer.set_body(body);
  answer.mutable_usage()->set_completion_tokens(3);
  answer.mutable_usage()->set_cost_dollars(0.5);
  return answer;
}

}  // namespace whalepod
