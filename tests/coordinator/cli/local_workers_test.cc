#include "coordinator/cli/local_workers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>

namespace whalepod {
namespace {

using ::testing::HasSubstr;

class LocalWorkersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    script_ = std::filesystem::path(::testing::TempDir()) /
              ("whalepod_worker_" + std::to_string(getpid()) + "_" +
               ::testing::UnitTest::GetInstance()->current_test_info()->name());
  }
  void TearDown() override { std::filesystem::remove(script_); }

  // Stands in for whalepod-worker; $4 is the rank.
  LocalWorkers::Options WorkersThat(const std::string& commands, int ranks) {
    std::ofstream(script_) << "#!/bin/sh\n" << commands << "\n";
    std::filesystem::permissions(script_, std::filesystem::perms::owner_all);
    return {.binary = script_, .coordinator = "127.0.0.1:1", .ranks = ranks};
  }

  std::filesystem::path script_;
};

TEST_F(LocalWorkersTest, SaysWhichRankEndedAndHow) {
  LocalWorkers workers;
  // Rank 1 exits with 7, rank 2 dies of a signal, rank 0 stays.
  ASSERT_TRUE(workers
                  .Start(WorkersThat("[ $4 = 1 ] && exit 7\n"
                                     "[ $4 = 2 ] && kill -9 $$\n"
                                     "exec sleep 1000",
                                     3))
                  .ok());
  const std::vector<pid_t> pids = workers.pids();
  std::vector<std::string> texts(3);
  for (int found = 0; found < 2;) {
    for (const LocalWorkers::Death& death : workers.Reap()) {
      EXPECT_EQ(death.pid, pids[death.rank]);
      texts[death.rank] = death.text;
      ++found;
    }
  }
  EXPECT_EQ(texts[0], "");
  EXPECT_THAT(texts[1], HasSubstr("exited with status 7"));
  EXPECT_THAT(texts[1], HasSubstr("rank 1 (worker process " + std::to_string(pids[1]) + ")"));
  EXPECT_THAT(texts[2], HasSubstr("rank 2"));
  EXPECT_THAT(texts[2], HasSubstr("was killed by signal 9"));
  EXPECT_FALSE(workers.Wait(std::chrono::milliseconds(0)));
}

TEST_F(LocalWorkersTest, NothingIsLeftBehind) {
  std::vector<pid_t> pids;
  {
    LocalWorkers workers;
    ASSERT_TRUE(workers.Start(WorkersThat("exec sleep 1000", 2)).ok());
    pids = workers.pids();
    ASSERT_EQ(kill(pids[0], 0), 0);
  }
  for (const pid_t pid : pids) {
    EXPECT_EQ(kill(pid, 0), -1);
    EXPECT_EQ(errno, ESRCH);
  }
}

TEST_F(LocalWorkersTest, WaitsForThoseThatLeave) {
  LocalWorkers workers;
  ASSERT_TRUE(workers.Start(WorkersThat("exit 0", 4)).ok());
  EXPECT_TRUE(workers.Wait(std::chrono::seconds(60)));
}

TEST_F(LocalWorkersTest, MissingBinaryIsNamed) {
  LocalWorkers workers;
  const absl::Status status = workers.Start({.binary = "/nowhere/whalepod-worker"});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/whalepod-worker"));
}

}  // namespace
}  // namespace whalepod
