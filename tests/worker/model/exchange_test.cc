#include "worker/model/exchange.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

// Moves nothing.
class FakeCommunicator : public Communicator {
 public:
  explicit FakeCommunicator(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  absl::Status AllGather(absl::Span<const std::byte>, absl::Span<const int64_t>,
                         absl::Span<std::byte>, TimePoint) override {
    ++calls;
    return absl::OkStatus();
  }
  absl::Status AllToAll(absl::Span<const absl::Span<const std::byte>>,
                        absl::Span<const absl::Span<std::byte>>, TimePoint) override {
    ++calls;
    return absl::OkStatus();
  }
  absl::Status Barrier(TimePoint) override { return absl::OkStatus(); }
  void Abort(const std::string&) override {}

  int calls = 0;

 private:
  int size_;
};

// Rank 1 of dp2 x tp2 with two experts' groups of two.
class ScheduledExchangeTest : public ::testing::Test {
 protected:
  ScheduledExchangeTest() {
    AddGroup("world", {0, 1, 2, 3});
    AddGroup("tp0", {0, 1});
    AddGroup("tp1", {2, 3});
    for (uint32_t group : {0, 1}) part_.mutable_part()->add_groups(group);
    Add(v1::COLLECTIVE_OP_ALL_GATHER, 1, v1::COLLECTIVE_TAG_EMBED, 0);
    Add(v1::COLLECTIVE_OP_ALL_TO_ALL, 0, v1::COLLECTIVE_TAG_MOE_COMBINE, 3);
    dims_.dp = dims_.tp = dims_.ep = dims_.moe_tp = 2;
    dims_.at = {.tp = 1, .moe_tp = 1};
  }

  void AddGroup(const std::string& name, std::initializer_list<uint32_t> ranks) {
    v1::Group* group = part_.mutable_header()->add_groups();
    group->set_name(name);
    group->mutable_ranks()->Add(ranks.begin(), ranks.end());
  }
  void Add(v1::CollectiveOp op, uint32_t group, v1::CollectiveTag tag, uint32_t layer) {
    v1::StepSchedule* schedule = part_.mutable_part()->mutable_schedule();
    schedule->add_op(op);
    schedule->add_group(group);
    schedule->add_tag(tag);
    schedule->add_layer(layer);
  }

  std::unique_ptr<ScheduledExchange> Make() {
    auto exchange = ScheduledExchange::Create(part_, dims_, {&world_, &tp_});
    EXPECT_TRUE(exchange.ok()) << exchange.status();
    (*exchange)->BeginStep(kNoDeadline);
    return *std::move(exchange);
  }

  v1::PlanPart part_;
  Dims dims_;
  FakeCommunicator world_{4}, tp_{2};
};

TEST_F(ScheduledExchangeTest, FollowsThePlanAndItsGroups) {
  auto exchange = Make();
  for (int step = 0; step < 2; ++step) {
    exchange->BeginStep(kNoDeadline);
    EXPECT_TRUE(exchange->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_EMBED, 0, {}, {}, {}).ok());
    EXPECT_TRUE(exchange->AllToAll(Domain::kWorld, v1::COLLECTIVE_TAG_MOE_COMBINE, 3, {}, {}).ok());
    EXPECT_TRUE(exchange->EndStep().ok());
  }
  EXPECT_EQ(tp_.calls, 2);
  EXPECT_EQ(world_.calls, 2);
}

TEST_F(ScheduledExchangeTest, ADifferenceNamesBoth) {
  const auto expect_refused = [](const absl::Status& status, const char* asked) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("COLLECTIVE_TAG_EMBED, layer 0"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(asked));
  };
  expect_refused(Make()->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_ATTN_GATHER, 0, {}, {}, {}),
                 "forward asks for COLLECTIVE_OP_ALL_GATHER of COLLECTIVE_TAG_ATTN_GATHER");
  expect_refused(Make()->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_EMBED, 2, {}, {}, {}),
                 "layer 2");
  expect_refused(Make()->AllToAll(Domain::kTp, v1::COLLECTIVE_TAG_EMBED, 0, {}, {}),
                 "COLLECTIVE_OP_ALL_TO_ALL");
  expect_refused(Make()->AllGather(Domain::kWorld, v1::COLLECTIVE_TAG_EMBED, 0, {}, {}, {}),
                 "ranks {0,1,2,3}");
  EXPECT_EQ(tp_.calls + world_.calls, 0);
}

TEST_F(ScheduledExchangeTest, MissingAndSurplusCalls) {
  auto exchange = Make();
  ASSERT_TRUE(exchange->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_EMBED, 0, {}, {}, {}).ok());
  EXPECT_THAT(std::string(exchange->EndStep().message()), HasSubstr("after 1 of 2 collectives"));
  ASSERT_TRUE(exchange->AllToAll(Domain::kWorld, v1::COLLECTIVE_TAG_MOE_COMBINE, 3, {}, {}).ok());
  const absl::Status surplus =
      exchange->AllGather(Domain::kTp, v1::COLLECTIVE_TAG_SAMPLE, 0, {}, {}, {});
  EXPECT_EQ(surplus.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(surplus.message()), HasSubstr("ends after 2 collectives"));
}

TEST_F(ScheduledExchangeTest, CommunicatorsMustBeThePlans) {
  EXPECT_EQ(ScheduledExchange::Create(part_, dims_, {&world_}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ScheduledExchange::Create(part_, dims_, {&tp_, &world_}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace whalepod
