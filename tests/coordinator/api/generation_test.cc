#include "coordinator/api/generation.h"

#include <condition_variable>
#include <mutex>

#include "gtest/gtest.h"
#include "tests/coordinator/api/loopback_frontend.h"

namespace whalepod {
namespace {

// A client that reads nothing after the first message.
class StuckWriter final : public ResponseWriter {
 public:
  bool Write(const v1::GenerateResponse&, bool) override {
    Note(&written_);
    return false;
  }
  void Finish(const absl::Status&) override { Note(&finished_); }
  void Abandon() override { Note(&abandoned_); }

  bool WaitAbandoned() {
    std::unique_lock lock(mu_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [this] { return abandoned_ > 0; });
  }
  int written() {
    std::lock_guard lock(mu_);
    return written_;
  }

 private:
  void Note(int* count) {
    std::lock_guard lock(mu_);
    ++*count;
    changed_.notify_all();
  }
  std::mutex mu_;
  std::condition_variable changed_;
  int written_ = 0, finished_ = 0, abandoned_ = 0;
};

class SlowReaderTest : public ::testing::Test {
 protected:
  // Begins a generation that `limits` must end; true if they did.
  bool Abandoned(const Generation::Limits& limits) {
    loopback_.SetReady();
    StuckWriter writer;
    auto request = std::make_shared<v1::GenerateRequest>();
    for (uint32_t i = 0; i < 5; ++i) request->mutable_token_ids()->add_ids(i);
    request->mutable_options()->set_max_tokens(20);
    request->mutable_options()->set_ignore_eos(true);
    auto generation = std::make_shared<Generation>(
        &writer, &clock_, loopback_.frontend->NewRecord(Transport::kGrpc), limits);
    loopback_.frontend->Generate(generation, request, "alice");
    const bool abandoned = writer.WaitAbandoned();
    EXPECT_EQ(writer.written(), 1);  // one at a time
    generation->Cancel();
    loopback_.ExpectAllFreed();
    // What was generated is its caller's, though it took nothing.
    const auto accounts =
        loopback_.usage->Read({.from_day = "1970-01-01", .to_day = "1970-01-01"}).value();
    EXPECT_EQ(accounts.size(), 1u);
    EXPECT_EQ(accounts.empty() ? "" : accounts[0].api_key(), "alice");
    EXPECT_EQ(accounts.empty() ? 0 : accounts[0].input_tokens(), 5u);
    EXPECT_GT(accounts.empty() ? 0 : accounts[0].output_tokens(), 0u);
    return abandoned;
  }

  FakeClock clock_;
  LoopbackFrontend loopback_;
};

TEST_F(SlowReaderTest, IsCancelledWhenTooMuchWaits) { EXPECT_TRUE(Abandoned({.unread = 3})); }

TEST_F(SlowReaderTest, IsCancelledWhenItTakesNothingForLong) {
  EXPECT_TRUE(Abandoned({.stall = Duration(-1)}));
}

}  // namespace
}  // namespace whalepod
