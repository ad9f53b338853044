// What every communicator promises (worker/comm/communicator.h), with ranks as threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "tests/worker/comm/comm_harness.h"

namespace whalepod {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;

constexpr auto kDeadlineExceeded = absl::StatusCode::kDeadlineExceeded;

class Conformance : public testing::TestWithParam<CommKind> {
 protected:
  bool gloo() const { return GetParam() == CommKind::kGloo || GetParam() == CommKind::kAuto; }
  // The error a rank sees when another of its group failed first.
  void ExpectFreed(const absl::Status& status, absl::StatusCode first) {
    if (gloo()) {
      EXPECT_THAT(status.code(), AnyOf(first, absl::StatusCode::kUnavailable)) << status;
    } else {
      EXPECT_EQ(status.code(), first) << status;
    }
  }
};

TEST_P(Conformance, GroupOfOne) {
  CommHarness harness(GetParam(), 1, 1000);
  auto statuses = harness.Run({WorldGroup(1, 1000)}, [](int, auto communicators) {
    EXPECT_EQ(communicators[0]->rank(), 0);
    EXPECT_EQ(communicators[0]->size(), 1);
    return RandomOperations(communicators[0], 1, 200, 1000, After(seconds(60)));
  });
  EXPECT_TRUE(statuses[0].ok()) << statuses[0];
}

TEST_P(Conformance, RandomOperations) {
  for (int size : {2, 3, 4}) {
    CommHarness harness(GetParam(), size, 4096);
    // Longer than a piece, so that operations take several rounds.
    constexpr int64_t kMost = 20000;
    auto statuses = harness.Run({WorldGroup(size, kMost)}, [size](int rank, auto communicators) {
      EXPECT_EQ(communicators[0]->rank(), rank);
      EXPECT_EQ(communicators[0]->size(), size);
      return RandomOperations(communicators[0], size, 1500, kMost, After(seconds(100)));
    });
    for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  }
}

TEST_P(Conformance, SeveralGroupsAtOnce) {
  CommHarness harness(GetParam(), 4, 4096);
  // Ranks lead some groups and follow in others; places differ from global ranks.
  std::vector<CommunicatorFactory::GroupSpec> groups = {
      WorldGroup(4, 4096),      {"row", {1, 0}, 4096}, {"row", {2, 3}, 4096},
      {"column", {2, 0}, 4096}, {"column", {1, 3}, 0}, {"alone", {3}, 10}};
  auto statuses = harness.Run(groups, [](int rank, auto communicators) -> absl::Status {
    for (uint64_t round = 0; round < 20; ++round) {
      for (size_t g = 0; g < 3; ++g) {
        int64_t most = g == 2 && rank % 2 == 1 ? 0 : 4096;
        RETURN_IF_ERROR(
            RandomOperations(communicators[g], round * 10 + g, 5, most, After(seconds(60))));
      }
    }
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

TEST_P(Conformance, AbortFreesAllThatWait) {
  for (int aborter = 0; aborter < 3; ++aborter) {
    for (int repeat = 0; repeat < 10; ++repeat) {
      CommHarness harness(GetParam(), 3, 100);
      std::atomic<int> about_to_wait = 0;
      std::atomic<int> freed = 0;
      TimePoint start = After(milliseconds(0));
      auto statuses = harness.Run({WorldGroup(3, 100)}, [&](int rank, auto communicators) {
        // Rank 2 never comes; `aborter` may be one that waits, or rank 2.
        std::thread control;
        if (rank == aborter) {
          control = std::thread([&, communicator = communicators[0]] {
            while (about_to_wait < 2) std::this_thread::yield();
            communicator->Abort("operator says so");
            communicator->Abort("a later reason");
          });
        }
        absl::Status status;
        if (rank < 2) {
          ++about_to_wait;
          status = communicators[0]->Barrier(After(seconds(100)));
          ++freed;
        }
        if (control.joinable()) control.join();
        if (rank == 2) {
          while (freed < 2) std::this_thread::yield();
          // Nobody waited for this rank: over a network it may see one more operation through.
          do {
            status = communicators[0]->Barrier(After(seconds(100)));
          } while (gloo() && status.ok());
        }
        absl::Status again = communicators[0]->Barrier(After(seconds(100)));
        EXPECT_EQ(again, status);
        return status;
      });
      EXPECT_LT(After(milliseconds(0)) - start, seconds(50));
      for (int rank = 0; rank < 3; ++rank) {
        ExpectFreed(statuses[rank], absl::StatusCode::kAborted);
        if (rank == aborter) {
          EXPECT_EQ(statuses[rank], absl::AbortedError("operator says so"));
        } else {
          EXPECT_THAT(std::string(statuses[rank].message()),
                      HasSubstr(absl::StrCat("rank ", aborter)));
        }
      }
    }
  }
}

TEST_P(Conformance, DeadlineNamesTheMissing) {
  CommHarness harness(GetParam(), 4, 100);
  std::atomic<int> failed = 0;
  auto statuses = harness.Run({WorldGroup(4, 100)}, [&](int rank, auto communicators) {
    if (rank % 2 == 1) {
      while (failed < 2) std::this_thread::yield();
    }
    absl::Status status = communicators[0]->Barrier(After(milliseconds(rank % 2 == 1 ? 0 : 200)));
    ++failed;
    // It stays failed, whatever is asked.
    EXPECT_EQ(communicators[0]->AllGather({}, {}, {}, After(seconds(100))), status);
    EXPECT_EQ(communicators[0]->AllToAll({}, {}, After(seconds(100))), status);
    EXPECT_EQ(communicators[0]->Barrier(After(seconds(100))), status);
    return status;
  });
  std::vector<std::string> messages;
  for (const absl::Status& status : statuses) {
    ExpectFreed(status, kDeadlineExceeded);
    messages.push_back(status.ToString());
  }
  EXPECT_THAT(messages, Contains(AllOf(HasSubstr("DEADLINE_EXCEEDED"), HasSubstr("ranks 1, 3"),
                                       HasSubstr("world"))));
}

TEST_P(Conformance, DifferentSizesAreNamed) {
  CommHarness harness(GetParam(), 2, 100);
  auto statuses = harness.Run({WorldGroup(2, 100)}, [&](int rank, auto communicators) {
    std::vector<std::byte> mine(rank == 0 ? 8 : 12);
    std::vector<std::byte> theirs(rank == 0 ? 16 : 8);
    std::vector<absl::Span<const std::byte>> send(2);
    std::vector<absl::Span<std::byte>> receive(2);
    send[1 - rank] = mine;
    receive[1 - rank] = absl::MakeSpan(theirs);
    return communicators[0]->AllToAll(send, receive, After(seconds(60)));
  });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kInvalidArgument) << statuses[0];
  EXPECT_THAT(std::string(statuses[0].message()), HasSubstr("rank 1 sends 12 bytes, rank 0 "
                                                            "expects 16"));
}

TEST_P(Conformance, DifferentOperationsAreNamed) {
  for (int place = 0; place < 3; ++place) {
    CommHarness harness(GetParam(), 3, 100);
    auto statuses = harness.Run({WorldGroup(3, 100)}, [&](int rank, auto communicators) {
      if (rank == place) return communicators[0]->Barrier(After(seconds(60)));
      std::vector<absl::Span<const std::byte>> send(3);
      std::vector<absl::Span<std::byte>> receive(3);
      return communicators[0]->AllToAll(send, receive, After(seconds(60)));
    });
    std::vector<std::string> messages;
    for (const absl::Status& status : statuses) {
      ExpectFreed(status, absl::StatusCode::kInvalidArgument);
      messages.push_back(status.ToString());
    }
    std::string bad = absl::StrCat("rank ", place, " calls Barrier");
    EXPECT_THAT(messages, Contains(AllOf(HasSubstr("INVALID_ARGUMENT"), HasSubstr(bad),
                                         HasSubstr("calls AllToAll"))));
  }
}

TEST_P(Conformance, OwnMistakesAreRefusedAndFreePeers) {
  CommHarness harness(GetParam(), 2, 100);
  auto statuses = harness.Run({WorldGroup(2, 100)}, [&](int rank, auto communicators) {
    std::vector<std::byte> mine(4);
    std::vector<std::byte> all(rank == 0 ? 7 : 8);
    return communicators[0]->AllGather(mine, {4, 4}, absl::MakeSpan(all), After(seconds(60)));
  });
  EXPECT_EQ(statuses[0].code(), absl::StatusCode::kInvalidArgument) << statuses[0];
  EXPECT_THAT(std::string(statuses[0].message()), AllOf(HasSubstr("7 bytes"), HasSubstr("8")));
  ExpectFreed(statuses[1], absl::StatusCode::kInvalidArgument);
}

TEST_P(Conformance, ConnectNamesWhoDoesNotCome) {
  CommHarness harness(GetParam(), 3, 100);
  std::vector<absl::Status> statuses(2);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      statuses[rank] =
          harness.Connect(rank, {WorldGroup(3, 100)}, After(milliseconds(300))).status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<std::string> messages = {statuses[0].ToString(), statuses[1].ToString()};
  EXPECT_THAT(messages, Contains(AllOf(HasSubstr("DEADLINE_EXCEEDED"), HasSubstr("rank 2"))));
  for (const absl::Status& status : statuses) ExpectFreed(status, kDeadlineExceeded);
}

TEST_P(Conformance, BadGroupsAreRefused) {
  CommHarness harness(GetParam(), 2, 100);
  std::vector<CommunicatorFactory::GroupSpec> bad = {
      {"outside", {0, 2}, 1}, {"twice", {0, 0}, 1}, {"negative", {0}, -1}};
  for (const auto& group : bad) {
    CommHarness fresh(GetParam(), 2, 100);
    absl::Status status = fresh.Connect(0, {group}, After(seconds(60))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(group.name));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Conformance,
                         testing::Values(CommKind::kInProcess, CommKind::kRegion,
                                         CommKind::kSharedMemory, CommKind::kGloo, CommKind::kAuto),
                         [](const auto& info) { return CommKindName(info.param); });

}  // namespace
}  // namespace whalepod
