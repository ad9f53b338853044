#include "coordinator/usage/usage_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kDayMs = 86'400'000;
constexpr v1::UsageSource kInteractive = v1::USAGE_SOURCE_INTERACTIVE;
constexpr v1::UsageSource kJob = v1::USAGE_SOURCE_JOB;

v1::Usage SomeUsage() {
  v1::Usage usage;
  usage.set_prompt_tokens(10);
  usage.set_cached_tokens(4);
  usage.set_completion_tokens(7);
  usage.set_reasoning_tokens(5);
  usage.set_cost_dollars(0.5);
  return usage;
}

// "day key source requests input cached output reasoning cost".
std::string Text(const v1::UsageRow& row) {
  return absl::StrCat(row.day(), " ", row.api_key(), " ", static_cast<int>(row.source()), " ",
                      row.requests(), " ", row.input_tokens(), " ", row.cached_input_tokens(), " ",
                      row.output_tokens(), " ", row.reasoning_tokens(), " ", row.cost_dollars());
}

// While it lives, no file grows beyond `bytes`: writes fail as on a broken disk.
class FileLimit {
 public:
  explicit FileLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    EXPECT_EQ(getrlimit(RLIMIT_FSIZE, &before_), 0);
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = before_.rlim_max};
    EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  }
  ~FileLimit() { EXPECT_EQ(setrlimit(RLIMIT_FSIZE, &before_), 0); }

 private:
  rlimit before_{};
};

class UsageStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (std::filesystem::temp_directory_path() / "usage-XXXXXX").string();
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
  }
  void TearDown() override {
    store_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }

  std::string path() const { return folder_ + "/usage.db"; }
  UsageStore::Options OptionsOf(const std::string& path, Duration flush_every = Duration(0)) {
    UsageStore::Options options;
    options.path = path;
    options.now_ms = [this] { return now_ms_.load(); };
    options.flush_every = flush_every;
    return options;
  }
  // The store is closed first, as a new process would find it.
  absl::Status Open(UsageStore::Options options) {
    store_.reset();
    auto opened = UsageStore::Open(std::move(options));
    if (opened.ok()) store_ = *std::move(opened);
    return opened.status();
  }
  std::vector<std::string> Rows(UsageQuery query = {.from_day = "1970-01-01",
                                                    .to_day = "1970-12-31"}) {
    const auto rows = store_->Read(query);
    EXPECT_TRUE(rows.ok()) << rows.status();
    std::vector<std::string> texts;
    for (const v1::UsageRow& row : rows.value_or(std::vector<v1::UsageRow>())) {
      texts.push_back(Text(row));
    }
    return texts;
  }

  std::string folder_;
  std::atomic<int64_t> now_ms_{0};
  std::unique_ptr<UsageStore> store_;
};

TEST_F(UsageStoreTest, SumsByDayKeyAndSource) {
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  EXPECT_FALSE(store_->in_memory());
  store_->Add("bob", kInteractive, SomeUsage());
  store_->Add("alice", kJob, SomeUsage());
  now_ms_ = kDayMs - 1;
  store_->Add("alice", kInteractive, SomeUsage());
  store_->Add("alice", kInteractive, SomeUsage());
  now_ms_ = kDayMs;
  EXPECT_EQ(store_->Today(), "1970-01-02");
  store_->Add("", kInteractive, SomeUsage());
  const auto all =
      ElementsAre("1970-01-01 alice 1 2 12 8 14 10 1", "1970-01-01 alice 2 1 6 4 7 5 0.5",
                  "1970-01-01 bob 1 1 6 4 7 5 0.5", "1970-01-02  1 1 6 4 7 5 0.5");
  EXPECT_THAT(Rows(), all) << "not written yet";
  ASSERT_TRUE(store_->Flush().ok());
  EXPECT_THAT(Rows(), all);
  ASSERT_TRUE(store_->Flush().ok());
  EXPECT_THAT(Rows(), all) << "written twice";
}

TEST_F(UsageStoreTest, WhatIsAskedFor) {
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  for (int day = 0; day < 4; ++day) {
    now_ms_ = day * kDayMs;
    store_->Add("alice", kInteractive, SomeUsage());
    store_->Add("bob", kInteractive, SomeUsage());
    // The rest is in memory.
    if (day == 1) {
      ASSERT_TRUE(store_->Flush().ok());
    }
  }
  EXPECT_THAT(Rows({.from_day = "1970-01-02", .to_day = "1970-01-03", .api_key = "bob"}),
              ElementsAre("1970-01-02 bob 1 1 6 4 7 5 0.5", "1970-01-03 bob 1 1 6 4 7 5 0.5"));
  EXPECT_THAT(Rows({.from_day = "1970-01-01", .to_day = "1970-01-31", .api_key = ""}), IsEmpty());
  EXPECT_EQ(Rows({.from_day = "1970-01-01", .to_day = "1970-01-04", .most = 8}).size(), 8u);
  const auto many =
      store_->Read({.from_day = "1970-01-01", .to_day = "1970-01-04", .api_key = {}, .most = 7});
  EXPECT_TRUE(absl::IsResourceExhausted(many.status())) << many.status();
}

TEST_F(UsageStoreTest, RestartsGoOn) {
  for (int start = 1; start <= 3; ++start) {
    ASSERT_TRUE(Open(OptionsOf(path())).ok());
    store_->Add("alice", kInteractive, SomeUsage());
    EXPECT_THAT(Rows(), ElementsAre(absl::StrCat("1970-01-01 alice 1 ", start, " ", 6 * start, " ",
                                                 4 * start, " ", 7 * start, " ", 5 * start, " ",
                                                 0.5 * start)));
  }
}

TEST_F(UsageStoreTest, WithoutAFileItIsInMemory) {
  ASSERT_TRUE(Open(OptionsOf("")).ok());
  EXPECT_TRUE(store_->in_memory());
  store_->Add("alice", kInteractive, SomeUsage());
  ASSERT_TRUE(store_->Flush().ok());
  EXPECT_THAT(Rows(), ElementsAre("1970-01-01 alice 1 1 6 4 7 5 0.5"));
  ASSERT_TRUE(Open(OptionsOf("")).ok());
  EXPECT_THAT(Rows(), IsEmpty());
}

// Its thread writes without being asked: a process that is killed a while later has it on disk.
TEST_F(UsageStoreTest, WhatWasFlushedSurvivesKill) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto store = UsageStore::Open(OptionsOf(path(), std::chrono::milliseconds(1)));
    if (!store.ok()) _exit(1);
    // On disk once the write-ahead log has grown by the row.
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    const std::string log = path() + "-wal";
    const auto before = std::filesystem::file_size(log);
    (*store)->Add("alice", kInteractive, SomeUsage());
    while (std::filesystem::file_size(log) == before) {
      if (std::chrono::steady_clock::now() > deadline) _exit(2);
      std::this_thread::yield();
    }
    // A flush that is under way is over when this returns.
    if (!(*store)->Flush().ok()) _exit(3);
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "exited with " << WEXITSTATUS(status);
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  EXPECT_THAT(Rows(), ElementsAre("1970-01-01 alice 1 1 6 4 7 5 0.5"));
}

// Fails in the midst of a transaction, again and again; then the disk is well.
TEST_F(UsageStoreTest, AFailedFlushIsRepeatedWholeAndOnce) {
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  store_->Add("first", kInteractive, SomeUsage());
  ASSERT_TRUE(store_->Flush().ok());
  constexpr int kKeys = 3000;  // many pages
  for (int i = 0; i < kKeys; ++i) store_->Add(absl::StrCat("key-", i), kJob, SomeUsage());
  store_->Add("first", kInteractive, SomeUsage());
  const std::vector<std::string> expected = Rows();
  ASSERT_EQ(expected.size(), kKeys + 1u);
  {
    const FileLimit limit(64 << 10);
    for (int i = 0; i < 3; ++i) {
      const absl::Status status = store_->Flush();
      EXPECT_FALSE(status.ok());
      EXPECT_THAT(std::string(status.message()), HasSubstr(path()));
      EXPECT_EQ(Rows(), expected);
    }
  }
  EXPECT_TRUE(store_->Flush().ok());
  EXPECT_EQ(Rows(), expected);
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  EXPECT_EQ(Rows(), expected);
}

TEST_F(UsageStoreTest, AFullDiskTakesNothingOrAll) {
  UsageStore::Options options = OptionsOf(path());
  options.most_pages = 8;
  ASSERT_TRUE(Open(options).ok());
  store_->Add("first", kInteractive, SomeUsage());
  ASSERT_TRUE(store_->Flush().ok());
  for (int i = 0; i < 3000; ++i) store_->Add(absl::StrCat("key-", i), kJob, SomeUsage());
  const absl::Status status = store_->Flush();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(Rows().size(), 3001u);
  store_->Add("first", kInteractive, SomeUsage());
  EXPECT_EQ(Rows().size(), 3001u);
  // Closed while the disk is full: none of what failed is there.
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  EXPECT_THAT(Rows(), ElementsAre("1970-01-01 first 1 1 6 4 7 5 0.5"));
}

TEST_F(UsageStoreTest, ManyMayAddWhileItIsWrittenAndRead) {
  ASSERT_TRUE(Open(OptionsOf(path(), std::chrono::microseconds(1))).ok());
  constexpr int kThreads = 4, kEach = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this] {
      for (int i = 0; i < kEach; ++i) store_->Add("alice", kInteractive, SomeUsage());
    });
  }
  uint64_t seen = 0;
  while (seen < kThreads * kEach) {
    const auto rows = store_->Read({.from_day = "1970-01-01", .to_day = "1970-01-01"});
    ASSERT_TRUE(rows.ok());
    const uint64_t now = rows->empty() ? 0 : rows->front().requests();
    ASSERT_GE(now, seen) << "what was counted is gone";
    ASSERT_LE(now, kThreads * kEach) << "counted twice";
    seen = now;
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(Open(OptionsOf(path())).ok());
  EXPECT_THAT(Rows(), ElementsAre("1970-01-01 alice 1 2000 12000 8000 14000 10000 1000"));
}

TEST_F(UsageStoreTest, ACorruptFileIsRefused) {
  std::ofstream(path(), std::ios::binary) << std::string(8192, 'x');
  const absl::Status status = Open(OptionsOf(path()));
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path()));
}

TEST_F(UsageStoreTest, AStoreOfAnotherKindIsRefused) {
  {
    auto database = Database::Open("other", path());
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE((*database)->Execute("CREATE TABLE t(x); PRAGMA user_version=1").ok());
  }
  const absl::Status status = Open(OptionsOf(path()));
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
}

}  // namespace
}  // namespace whalepod
