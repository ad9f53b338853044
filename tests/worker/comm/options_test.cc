// How factories are set up, and what they refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/worker/comm/comm_harness.h"
#include "worker/comm/select.h"

namespace whalepod {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(Gloo, ListensOnAnAddressOrAnInterface) {
  GlooOptions options;
  EXPECT_EQ(MakeGlooFactory(options)->Rendezvous().status().code(),
            absl::StatusCode::kInvalidArgument);
  options.interface = "lo";
  absl::StatusOr<std::string> blob = MakeGlooFactory(options)->Rendezvous();
  ASSERT_TRUE(blob.ok()) << blob.status();
  EXPECT_THAT(*blob, HasSubstr("tcp:127.0.0.1:"));
  options.address = "127.0.0.1";
  EXPECT_EQ(MakeGlooFactory(options)->Rendezvous().status().code(),
            absl::StatusCode::kInvalidArgument);
  options = {};
  options.interface = "nonesuch0";
  absl::Status none = MakeGlooFactory(options)->Rendezvous().status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.message()), HasSubstr("nonesuch0"));
  options = {};
  options.address = "192.0.2.1";  // of no machine (RFC 5737)
  absl::Status elsewhere = MakeGlooFactory(options)->Rendezvous().status();
  EXPECT_FALSE(elsewhere.ok());
  EXPECT_THAT(std::string(elsewhere.message()), HasSubstr("192.0.2.1"));
}

TEST(Select, RefusesGroupsThatSpanHostsWithoutAnAddress) {
  auto factory = MakeAutoCommunicatorFactory({});
  CommunicatorFactory::Peers peers;
  peers.rendezvous = {factory->Rendezvous().value(), "unix:x\n"};
  peers.hosts = {"left", "right"};
  absl::Status status =
      factory->Connect(peers, {WorldGroup(2, 10)}, After(std::chrono::seconds(60))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("world"), HasSubstr("left, right"), HasSubstr("rank 0")));
}

TEST(SharedMemory, RefusesGroupsThatSpanHosts) {
  auto factory = MakeSharedMemoryFactory();
  CommunicatorFactory::Peers peers;
  peers.rendezvous = {factory->Rendezvous().value(), "unix:x"};
  peers.hosts = {"left", "right"};
  absl::Status status =
      factory->Connect(peers, {WorldGroup(2, 10)}, After(std::chrono::seconds(60))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("left"), HasSubstr("right")));
}

TEST(SharedMemory, SaysHowMuchMemoryIsNotToBeHad) {
  SharedMemoryOptions options;
  options.max_outbox_bytes = int64_t{1} << 50;
  auto factory = MakeSharedMemoryFactory(options);
  CommunicatorFactory::Peers peers;
  peers.rendezvous = {factory->Rendezvous().value(), "unix:x"};
  peers.hosts = {"here", "here"};
  absl::Status status =
      factory->Connect(peers, {WorldGroup(2, int64_t{1} << 50)}, After(std::chrono::seconds(60)))
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("needs 45035996"));  // 4 * 2^50 and a bit
}

TEST(Factories, ConnectOnlyAfterRendezvousAndOnce) {
  SharedMemoryOptions shared_memory;
  GlooOptions gloo;
  gloo.address = "127.0.0.1";
  for (auto make : {0, 1}) {
    auto factory = make == 0 ? MakeSharedMemoryFactory(shared_memory) : MakeGlooFactory(gloo);
    CommunicatorFactory::Peers peers;
    peers.rendezvous = {""};
    peers.hosts = {"here"};
    TimePoint deadline = After(std::chrono::seconds(60));
    EXPECT_EQ(factory->Connect(peers, {WorldGroup(1, 10)}, deadline).status().code(),
              absl::StatusCode::kFailedPrecondition);
    peers.rendezvous = {factory->Rendezvous().value()};
    EXPECT_TRUE(factory->Connect(peers, {WorldGroup(1, 10)}, deadline).ok());
    EXPECT_EQ(factory->Connect(peers, {WorldGroup(1, 10)}, deadline).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

class Views : public testing::TestWithParam<CommKind> {};

TEST_P(Views, ThatDifferAreNamed) {
  CommHarness harness(GetParam(), 2, 1000);
  std::vector<absl::Status> statuses(2);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      auto group = WorldGroup(2, rank == 0 ? 100 : 200);
      statuses[rank] = harness.Connect(rank, {group}, After(std::chrono::seconds(60))).status();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr("100 bytes"), HasSubstr("200 bytes")));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Views,
                         testing::Values(CommKind::kSharedMemory, CommKind::kGloo, CommKind::kAuto),
                         [](const auto& info) { return CommKindName(info.param); });

}  // namespace
}  // namespace whalepod
