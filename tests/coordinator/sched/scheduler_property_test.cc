// Random and exhaustive histories of the scheduler against the model worker.
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/coordinator/sched/simulation.h"
#include "tests/coordinator/sched/test_requests.h"

namespace whalepod {
namespace {

// Events of one random history; WHALEPOD_SCHEDULER_EVENTS asks for more.
int EventCount() {
  const char* asked = std::getenv("WHALEPOD_SCHEDULER_EVENTS");
  return asked == nullptr ? 1500 : std::max(1, std::atoi(asked));
}

class RandomHistory {
 public:
  explicit RandomHistory(uint32_t seed)
      : rng_(seed), config_(RandomConfig()), simulation_(config_) {}

  void Run() {
    const size_t depth = Pick(1, 3);
    for (int i = EventCount(); i > 0 && !::testing::Test::HasFatalFailure(); --i) {
      switch (Pick(0, 11)) {
        case 0:
        case 1:
          simulation_.Submit(RandomRequest());
          break;
        case 2:
          if (!simulation_.requests().empty()) {
            const auto& requests = simulation_.requests();
            simulation_.Cancel(requests.lower_bound(Pick(1, requests.rbegin()->first))->first);
          }
          break;
        case 3:
          simulation_.Advance(std::chrono::milliseconds(Pick(1, 400)));
          break;
        default:
          if (simulation_.in_flight() < depth && Pick(0, 2) > 0) {
            simulation_.Step();
          } else if (simulation_.in_flight() > 0) {
            simulation_.Commit();
          }
      }
    }
    if (::testing::Test::HasFatalFailure()) return;
    simulation_.RunToEnd(depth);
    simulation_.ExpectAllRight();
  }

  const SchedulerStats Stats() { return simulation_.scheduler().Stats(); }

 private:
  uint32_t Pick(uint32_t lo, uint32_t hi) {
    return std::uniform_int_distribution<uint32_t>(lo, hi)(rng_);
  }

  SchedulerConfig RandomConfig() {
    SchedulerConfig config;
    const uint32_t groups = Pick(1, 3);
    for (uint32_t g = 0; g < groups; ++g) config.group_blocks.push_back(Pick(6, 30));
    config.block_tokens = Pick(1, 5);
    config.max_num_seqs = Pick(1, 6);
    config.max_model_len = Pick(8, 60);
    config.min_chunk = Pick(1, 8);
    config.max_num_batched_tokens = config.max_num_seqs - 1 + config.min_chunk + Pick(0, 20);
    config.max_waiting = Pick(1, 12);
    config.max_waiting_tokens = Pick(20, 400);
    config.prefix_cache = Pick(0, 3) > 0;
    config.ageing = std::chrono::milliseconds(Pick(1, 500));
    for (uint32_t t = 0; t < 100; ++t) config.eos_token_ids.push_back(t);
    config.first_step = 2;
    return config;
  }

  // Prompts of few kinds, so that many begin alike.
  SchedulerRequest RandomRequest() {
    SchedulerRequest request = MakeRequest(Pick(1, 50), Pick(1, 40), Pick(1, 3));
    if (Pick(0, 3) == 0) request.prompt.back() = Pick(1, 1u << 20);
    request.sampling.set_seed(Pick(1, 1u << 20));
    request.sampling.set_ignore_eos(Pick(0, 1) == 0);
    if (Pick(0, 3) == 0) request.sampling.add_stop_token_ids(Pick(0, 999));
    if (Pick(0, 9) == 0) request.sampling.set_prompt_logprobs(0);
    if (Pick(0, 4) == 0) GenerateSome(&request);
    request.tenant = std::string(1, static_cast<char>('a' + Pick(0, 2)));
    request.priority = static_cast<int32_t>(Pick(0, 3)) - 1;
    const auto in = [this](uint32_t most) {
      return simulation_.now() + std::chrono::milliseconds(Pick(1, most));
    };
    if (Pick(0, 5) == 0) request.queue_deadline = in(500);
    if (Pick(0, 5) == 0) request.first_token_deadline = in(1000);
    if (Pick(0, 5) == 0) request.deadline = in(4000);
    return request;
  }

  // As an earlier deployment would have, up to a token that does not end it.
  void GenerateSome(SchedulerRequest* request) {
    const uint32_t most = Pick(0, request->sampling.max_tokens() - 1);
    const auto ends = [&](uint32_t token) {
      const auto& stops = request->sampling.stop_token_ids();
      return (!request->sampling.ignore_eos() && token < 100) ||
             std::count(stops.begin(), stops.end(), token) > 0;
    };
    while (request->generated.size() < most) {
      const uint32_t token =
          ModelWorker::TokenAt(request->prompt, request->sampling.seed(),
                               static_cast<uint32_t>(request->generated.size()), 1000);
      if (ends(token)) break;
      request->generated.push_back(token);
    }
  }

  std::mt19937 rng_;
  const SchedulerConfig config_;
  Simulation simulation_;
};

class SchedulerProperty : public ::testing::TestWithParam<int> {};

TEST_P(SchedulerProperty, RandomHistory) { RandomHistory(GetParam()).Run(); }

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerProperty, ::testing::Range(0, 80));

// The random histories are of use only if they reach what is rare.
TEST(SchedulerProperty, HistoriesPreemptShareAndExpire) {
  uint64_t preemptions = 0, hits = 0, expired = 0, overrun = 0;
  for (uint32_t seed = 0; seed < 20; ++seed) {
    RandomHistory history(seed);
    history.Run();
    const SchedulerStats stats = history.Stats();
    preemptions += stats.preemptions;
    hits += stats.prefix_hits;
    expired += stats.expired;
    overrun += stats.overrun_tokens;
  }
  EXPECT_GT(preemptions, 50u);
  EXPECT_GT(hits, 1000u);
  EXPECT_GT(expired, 50u);
  EXPECT_GT(overrun, 100u);
}

// Every order of submitting and cancelling three requests, making steps and committing them, up to
// a length, in a KV pool too small for two of them: then to the end. The third may preempt.
class Exhaustive {
 public:
  uint64_t Explore(int length) {
    Extend("", length);
    return histories_;
  }

 private:
  static SchedulerConfig Config() {
    SchedulerConfig config = SmallConfig();
    config.group_blocks = {4};
    config.block_tokens = 2;
    config.max_num_seqs = 2;
    config.max_model_len = 8;
    config.max_num_batched_tokens = 4;
    return config;
  }

  static SchedulerRequest Request(int i) {
    SchedulerRequest request = MakeRequest(i == 0 ? 3 : 2, i == 2 ? 2 : 4, /*salt=*/1);
    request.sampling.set_seed(i);
    request.priority = i == 2 ? -1 : 0;
    return request;
  }

  // S, C: make a step, commit one. 0-2: submit. a-c: cancel.
  static bool Legal(const std::string& history, char next) {
    const auto count = [&](char c) { return std::count(history.begin(), history.end(), c); };
    if (next == 'S') return count('S') - count('C') < 2;
    if (next == 'C') return count('S') > count('C');
    if (next <= '2') return count(next) == 0 && (next == '0' || count(next - 1) == 1);
    return count(next) == 0 && count(static_cast<char>(next - 'a' + '0')) == 1;
  }

  void Extend(const std::string& history, int left) {
    if (::testing::Test::HasFailure()) return;
    Replay(history);
    if (left == 0) return;
    for (const char next : std::string("SC012abc")) {
      if (Legal(history, next)) Extend(history + next, left - 1);
    }
  }

  void Replay(const std::string& history) {
    SCOPED_TRACE(history);
    ++histories_;
    Simulation simulation(Config());
    std::vector<uint64_t> ids;
    for (const char event : history) {
      if (event == 'S') {
        simulation.Step();
      } else if (event == 'C') {
        simulation.Commit();
      } else if (event <= '2') {
        ids.push_back(simulation.Submit(Request(event - '0')));
      } else {
        simulation.Cancel(ids[event - 'a']);
      }
      if (::testing::Test::HasFatalFailure()) return;
    }
    simulation.RunToEnd();
    simulation.ExpectAllRight();
  }

  uint64_t histories_ = 0;
};

TEST(SchedulerExhaustive, EveryInterleavingOfThreeRequests) {
  Exhaustive exhaustive;
  EXPECT_GT(exhaustive.Explore(9), 10000u);
}

}  // namespace
}  // namespace whalepod
