// Ranks as processes: what threads can't show (death, a stopped process, what is left behind, two
// hosts). Each rank is a comm_rank, driven over pipes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace whalepod {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

class RankProcess {
 public:
  // `prefix`: a command to run it under ("ip netns exec NAME"), or empty.
  RankProcess(const std::vector<std::string>& prefix, const std::string& kind, int rank,
              const std::string& address) {
    int in[2];
    int out[2];
    EXPECT_EQ(pipe2(in, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(out, O_CLOEXEC), 0);
    std::vector<std::string> command = prefix;
    for (const std::string& word : {std::string(COMM_RANK), kind, absl::StrCat(rank), address}) {
      command.push_back(word);
    }
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    EXPECT_EQ(posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    to_ = fdopen(in[1], "w");
    from_ = fdopen(out[0], "r");
  }

  ~RankProcess() {
    Signal(SIGCONT);
    fclose(to_);
    fclose(from_);
    Reap();
  }

  void Tell(const std::string& line) {
    fputs(absl::StrCat(line, "\n").c_str(), to_);
    fflush(to_);
  }
  std::string Answer() {
    char* line = nullptr;
    size_t capacity = 0;
    ssize_t bytes = getline(&line, &capacity, from_);
    std::string answer = bytes > 0 ? std::string(line, bytes - 1) : "no answer";
    free(line);
    return answer;
  }
  void Signal(int signal) {
    if (pid_ > 0) kill(pid_, signal);
  }
  void Reap() {
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  FILE* to_ = nullptr;
  FILE* from_ = nullptr;
};

struct Place {
  std::string host = "one";
  std::vector<std::string> prefix;
  std::string address = "127.0.0.1";
};

class Ranks {
 public:
  Ranks(const std::string& kind, const std::vector<Place>& places) : places_(places) {
    signal(SIGPIPE, SIG_IGN);
    for (size_t rank = 0; rank < places.size(); ++rank) {
      ranks_.push_back(std::make_unique<RankProcess>(places[rank].prefix, kind,
                                                     static_cast<int>(rank), places[rank].address));
    }
    for (auto& rank : ranks_) rendezvous_.push_back(rank->Answer());
  }

  RankProcess& operator[](size_t rank) { return *ranks_[rank]; }
  const std::vector<std::string>& rendezvous() const { return rendezvous_; }

  std::string ConnectLine(int milliseconds = 60000) const {
    std::vector<std::string> hosts;
    for (const Place& place : places_) hosts.push_back(place.host);
    return absl::StrCat("connect epoch-1 ", milliseconds, " ", absl::StrJoin(hosts, ","), " ",
                        absl::StrJoin(rendezvous_, ","));
  }
  // Tells all; the answers by rank.
  std::vector<std::string> All(const std::string& line) {
    for (auto& rank : ranks_) rank->Tell(line);
    std::vector<std::string> answers;
    for (auto& rank : ranks_) answers.push_back(rank->Answer());
    return answers;
  }
  void ExpectAllOk(const std::string& line) {
    EXPECT_THAT(All(line), testing::Each("OK")) << line.substr(0, 60);
  }
  void Kill() {
    for (auto& rank : ranks_) rank->Signal(SIGKILL);
    for (auto& rank : ranks_) rank->Reap();
  }

 private:
  const std::vector<Place> places_;
  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::vector<std::string> rendezvous_;
};

std::vector<Place> OneHost(int size) { return std::vector<Place>(size); }

class Processes : public testing::TestWithParam<std::string> {};

TEST_P(Processes, RandomOperations) {
  for (int size : {2, 4}) {
    Ranks ranks(GetParam(), OneHost(size));
    ranks.ExpectAllOk(ranks.ConnectLine());
    for (int seed = 0; seed < 3; ++seed) {
      ranks.ExpectAllOk(absl::StrCat("random ", seed, " 500 50000"));
    }
  }
}

TEST_P(Processes, AKilledPeerIsNamedLongBeforeTheDeadline) {
  for (size_t victim = 0; victim < 3; ++victim) {
    Ranks ranks(GetParam(), OneHost(3));
    ranks.ExpectAllOk(ranks.ConnectLine());
    ranks.ExpectAllOk("random 7 20 50000");
    // The victim does not come: it hears nothing and is killed.
    for (size_t rank = 0; rank < 3; ++rank) {
      if (rank != victim) ranks[rank].Tell("barrier 100000");
    }
    auto start = std::chrono::steady_clock::now();
    ranks[victim].Signal(SIGKILL);
    for (size_t rank = 0; rank < 3; ++rank) {
      if (rank == victim) continue;
      EXPECT_THAT(ranks[rank].Answer(),
                  AllOf(HasSubstr("UNAVAILABLE"), HasSubstr(absl::StrCat("rank ", victim))));
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
  }
}

TEST_P(Processes, AStoppedPeerIsNamedAtTheDeadline) {
  Ranks ranks(GetParam(), OneHost(3));
  ranks.ExpectAllOk(ranks.ConnectLine());
  ranks[1].Signal(SIGSTOP);
  ranks[0].Tell("barrier 300");
  ranks[2].Tell("barrier 300");
  for (size_t rank : {0, 2}) {
    EXPECT_THAT(ranks[rank].Answer(), AllOf(HasSubstr("DEADLINE_EXCEEDED"), HasSubstr("rank 1 ")));
  }
  // It goes on too late, and hears of it.
  ranks[1].Signal(SIGCONT);
  ranks[1].Tell("barrier 60000");
  EXPECT_THAT(ranks[1].Answer(), HasSubstr("DEADLINE_EXCEEDED"));
}

TEST_P(Processes, AnAbortReachesOtherProcesses) {
  Ranks ranks(GetParam(), OneHost(3));
  ranks.ExpectAllOk(ranks.ConnectLine());
  ranks[0].Tell("barrier 100000");
  ranks[2].Tell("barrier 100000");
  ranks[1].Tell("abort the coordinator says so");
  EXPECT_EQ(ranks[1].Answer(), "OK");
  for (size_t rank : {0, 2}) {
    EXPECT_THAT(ranks[rank].Answer(), AllOf(HasSubstr("ABORTED"), HasSubstr("rank 1 aborted"),
                                            HasSubstr("the coordinator says so")));
  }
}

TEST_P(Processes, ConnectingNamesTheDeadAndTheMissing) {
  Ranks ranks(GetParam(), OneHost(3));
  ranks[2].Signal(SIGKILL);
  ranks[2].Reap();
  ranks[0].Tell(ranks.ConnectLine(500));
  ranks[1].Tell(ranks.ConnectLine(500));
  for (size_t rank : {0, 1}) {
    // Rank 1 may have its memory already and wait for rank 0 too.
    EXPECT_THAT(ranks[rank].Answer(), AnyOf(HasSubstr("rank 2"), HasSubstr("ranks 0, 2")));
  }
  Ranks headless(GetParam(), OneHost(2));
  headless[0].Signal(SIGKILL);
  headless[0].Reap();
  headless[1].Tell(headless.ConnectLine(60000));
  EXPECT_THAT(headless[1].Answer(), AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("rank 0")));
}

TEST_P(Processes, NothingIsLeftAfterAKill) {
  auto files = [] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      std::string name = entry.path().filename();
      if (name.find("whalepod") != std::string::npos) names.insert(name);
    }
    return names;
  };
  std::set<std::string> before = files();
  Ranks ranks(GetParam(), OneHost(2));
  ranks.ExpectAllOk(ranks.ConnectLine());
  ranks.ExpectAllOk("random 1 10 50000");
  EXPECT_EQ(files(), before);
  ranks.Kill();
  EXPECT_EQ(files(), before);
  std::ifstream file("/proc/net/unix");
  std::stringstream sockets;
  sockets << file.rdbuf();
  for (const std::string& blob : ranks.rendezvous()) {
    std::string name = absl::HexStringToBytes(blob);
    name = name.substr(0, name.find('\n'));
    if (name.rfind("unix:", 0) == 0) {
      EXPECT_THAT(sockets.str(), testing::Not(HasSubstr(name.substr(5))));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Processes, testing::Values("shared_memory", "gloo", "auto"));

// Two hosts: network namespaces joined by one virtual cable.
class TwoHosts : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0 || !Shell("ip -V")) {
      GTEST_SKIP() << "skipped: network namespaces need root and the ip command";
    }
    if (!Shell(absl::StrCat("ip netns add ", a_)) || !Shell(absl::StrCat("ip netns add ", b_))) {
      GTEST_SKIP() << "skipped: this machine does not let us make network namespaces";
    }
    std::string link = absl::StrCat("wp", getpid());
    // In a chroot, names of namespaces can be made but not used.
    if (!Shell(absl::StrCat("ip -n ", a_, " link add ", link, "a type veth peer name ", link,
                            "b netns ", b_))) {
      GTEST_SKIP() << "skipped: this machine does not let us join network namespaces";
    }
    for (const auto& [space, end, address] :
         {std::tuple(a_, link + "a", "10.77.0.1"), std::tuple(b_, link + "b", "10.77.0.2")}) {
      ASSERT_TRUE(Shell(absl::StrCat("ip -n ", space, " address add ", address, "/24 dev ", end)));
      ASSERT_TRUE(Shell(absl::StrCat("ip -n ", space, " link set ", end, " up")));
      ASSERT_TRUE(Shell(absl::StrCat("ip -n ", space, " link set lo up")));
    }
    cable_ = absl::StrCat("ip -n ", a_, " link set ", link, "a");
  }
  void TearDown() override {
    Shell(absl::StrCat("ip netns delete ", a_));
    Shell(absl::StrCat("ip netns delete ", b_));
  }

  // Ranks 0 and 1 on host a, 2 and 3 on host b.
  std::vector<Place> Places() const {
    Place a{"a", {"ip", "netns", "exec", a_}, "10.77.0.1"};
    Place b{"b", {"ip", "netns", "exec", b_}, "10.77.0.2"};
    return {a, a, b, b};
  }
  static bool Shell(const std::string& command) {
    return std::system(absl::StrCat(command, " > /dev/null 2>&1").c_str()) == 0;
  }

  const std::string a_ = absl::StrCat("whalepod-test-", getpid(), "a");
  const std::string b_ = absl::StrCat("whalepod-test-", getpid(), "b");
  std::string cable_;
};

TEST_F(TwoHosts, RandomOperationsAndADeath) {
  Ranks ranks("auto", Places());
  ranks.ExpectAllOk(ranks.ConnectLine());
  ranks.ExpectAllOk("random 3 400 50000");
  for (size_t rank : {0, 1, 3}) ranks[rank].Tell("barrier 100000");
  ranks[2].Signal(SIGKILL);
  for (size_t rank : {0, 1, 3}) {
    EXPECT_THAT(ranks[rank].Answer(), AllOf(HasSubstr("UNAVAILABLE"), HasSubstr("rank 2")));
  }
}

TEST_F(TwoHosts, ACutCableIsNoticedAtTheDeadline) {
  Ranks ranks("auto", Places());
  ranks.ExpectAllOk(ranks.ConnectLine());
  ranks.ExpectAllOk("random 4 20 50000");
  ASSERT_TRUE(Shell(cable_ + " down"));
  std::vector<std::string> answers = ranks.All("barrier 1000");
  for (size_t rank = 0; rank < 4; ++rank) {
    EXPECT_THAT(answers[rank], AllOf(HasSubstr("DEADLINE_EXCEEDED"),
                                     HasSubstr(rank < 2 ? "ranks 2, 3" : "ranks 0, 1")));
  }
}

}  // namespace
}  // namespace whalepod
