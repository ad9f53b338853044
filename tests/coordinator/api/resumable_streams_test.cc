#include "coordinator/api/resumable_streams.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>

#include "coordinator/api/errors.h"
#include "tests/coordinator/api/loopback_frontend.h"
#include "tests/coordinator/api/test_reader.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

class ResumableStreamsTest : public ::testing::Test {
 protected:
  static constexpr uint32_t kTokens = 150;

  void SetUp() override {
    std::string folder = (std::filesystem::temp_directory_path() / "resume-XXXXXX").string();
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    Restart();
  }
  void TearDown() override {
    streams_.reset();
    loopback_.reset();
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  // A new coordinator with new ranks over what is on disk.
  void Restart(const std::string& identity = "", int64_t most_pages = 0, int64_t most_streams = 0) {
    streams_.reset();
    store_.reset();
    loopback_ = std::make_unique<LoopbackFrontend>();
    loopback_->model.identity = identity;
    loopback_->SetReady();
    auto store = StreamStore::Open({.path = folder_ + "/streams.db",
                                    .now_ms = [this] { return now_ms_.load(); },
                                    .most_pages = most_pages,
                                    .most_streams = most_streams});
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    MakeStreams();
  }
  void MakeStreams(Duration window = std::chrono::minutes(10)) {
    ResumableStreams::Options options;
    options.window = window;
    options.flush = std::chrono::milliseconds(1);
    options.now_ms = [this] { return now_ms_.load(); };
    streams_ = std::make_unique<ResumableStreams>(loopback_->frontend.get(), store_.get(), options);
  }

  static v1::GenerateRequest RequestOf(const std::string& id) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    for (const uint32_t token : Prompt()) request.mutable_token_ids()->add_ids(token);
    request.mutable_options()->set_max_tokens(kTokens);
    request.mutable_options()->set_ignore_eos(true);
    request.mutable_options()->set_seed(5);
    request.set_resumable(true);
    return request;
  }
  absl::StatusOr<std::shared_ptr<ResumableStream>> Begin(const v1::GenerateRequest& request) {
    return streams_->Begin(request, "", loopback_->frontend->NewRecord(Transport::kGrpc));
  }
  static std::vector<uint32_t> Prompt() { return {3, 1, 4, 1, 5}; }
  static std::vector<uint32_t> Expected(uint32_t from = 0) {
    std::vector<uint32_t> ids;
    for (uint32_t i = from; i < kTokens; ++i) {
      ids.push_back(ModelWorker::TokenAt(Prompt(), 5, i, 1000));
    }
    return ids;
  }

  std::shared_ptr<TestReader> Read(const absl::StatusOr<std::shared_ptr<ResumableStream>>& stream,
                                   uint32_t from = 0) {
    EXPECT_TRUE(stream.ok()) << stream.status();
    auto reader = std::make_shared<TestReader>();
    if (stream.ok()) reader->Begin(*stream, from);
    return reader;
  }
  // Tokens that were generated, by the deployment's accounts.
  uint64_t Accounted() {
    uint64_t tokens = 0;
    const auto rows = loopback_->usage->Read({.from_day = "1970-01-01", .to_day = "1970-01-01"});
    for (const v1::UsageRow& row : *rows) tokens += row.output_tokens();
    return tokens;
  }
  // Until the journal has so many events of it, or its end.
  void WaitSaved(const std::string& id, int events) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (std::chrono::steady_clock::now() < deadline) {
      const auto stored = store_->Read({"", id});
      ASSERT_TRUE(stored.ok()) << stored.status();
      if (stored->events.events_size() >= events || stored->end.has_value()) return;
      std::this_thread::yield();
    }
    FAIL() << "not saved";
  }

  std::string folder_;
  std::atomic<int64_t> now_ms_{1000};
  std::unique_ptr<LoopbackFrontend> loopback_;
  std::unique_ptr<StreamStore> store_;
  std::unique_ptr<ResumableStreams> streams_;
};

TEST_F(ResumableStreamsTest, MoreThanAreKeptAreRefusedByReason) {
  Restart("", 0, 1);
  ASSERT_TRUE(Read(Begin(RequestOf("one")))->WaitOver());
  const absl::Status refused = Begin(RequestOf("two")).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  const std::optional<v1::ErrorDetail> detail = DetailOf(refused);
  ASSERT_TRUE(detail.has_value());
  EXPECT_EQ(detail->reason(), "TOO_MANY_RESUMABLE");
  EXPECT_GT(detail->retry_delay_ms(), 0u);
  EXPECT_TRUE(absl::IsAlreadyExists(Begin(RequestOf("one")).status()));
}

TEST_F(ResumableStreamsTest, IsReadFromAnyTokenWhileItRunsAndAfterwards) {
  const auto stream = Begin(RequestOf("one"));
  const auto first = Read(stream);
  ASSERT_TRUE(first->WaitOver());
  EXPECT_EQ(first->ids(), Expected());
  EXPECT_EQ(first->finished().usage().completion_tokens(), kTokens);
  for (const uint32_t from : {0u, 1u, 17u, kTokens}) {
    const auto again = Read(streams_->Resume("one", ""), from);
    ASSERT_TRUE(again->WaitOver());
    EXPECT_EQ(again->ids(), Expected(from));
    EXPECT_EQ(again->finished().reason(), v1::FINISH_REASON_LENGTH);
  }
  WaitSaved("one", kTokens + 1);
  Restart();
  // It needs no engine any more.
  const auto later = Read(streams_->Resume("one", ""), 7);
  ASSERT_TRUE(later->WaitOver());
  EXPECT_EQ(later->ids(), Expected(7));
  EXPECT_EQ(later->finished().usage().completion_tokens(), kTokens);
  EXPECT_EQ(loopback_->engine->Stats().submitted, 0u);
}

TEST_F(ResumableStreamsTest, GoesOnAfterARestartWithTheSameTokens) {
  constexpr int kMore = 2;  // tokens that are sampled and not in the journal yet
  for (const int saved : {0, 1, 2, 9, 20}) {
    const std::string id = "restart-" + std::to_string(saved);
    const uint64_t before = Accounted();
    loopback_->ranks->HoldAfter(static_cast<uint64_t>(saved + kMore));
    const auto first = Read(Begin(RequestOf(id)));
    ASSERT_TRUE(first->WaitTokens(static_cast<size_t>(saved)));
    WaitSaved(id, saved);
    loopback_->engine->Fail(absl::UnavailableError("a rank is lost"));
    ASSERT_TRUE(first->WaitOver());
    const auto had = static_cast<uint32_t>(first->ids().size());
    EXPECT_TRUE(absl::IsUnavailable(first->status())) << first->status();
    EXPECT_EQ(Accounted() - before, 0u);
    Restart();
    const auto second = Read(streams_->Resume(id, ""), had);
    ASSERT_TRUE(second->WaitOver());
    EXPECT_TRUE(second->status().ok()) << second->status();
    EXPECT_EQ(second->ids(), Expected(had));
    EXPECT_EQ(second->finished().usage().completion_tokens(), kTokens);
    EXPECT_EQ(second->finished().usage().prompt_tokens(), Prompt().size());
    EXPECT_EQ(Accounted(), kTokens);
    const auto whole = Read(streams_->Resume(id, ""), 0);
    ASSERT_TRUE(whole->WaitOver());
    EXPECT_EQ(whole->ids(), Expected());
    loopback_->ExpectAllFreed();
  }
}

TEST_F(ResumableStreamsTest, GoesOnWithoutAReader) {
  loopback_->ranks->Hold(true);
  { const auto reader = Read(Begin(RequestOf("alone"))); }
  loopback_->ranks->Hold(false);
  WaitSaved("alone", kTokens + 1);
  const auto reader = Read(streams_->Resume("alone", ""));
  ASSERT_TRUE(reader->WaitOver());
  EXPECT_EQ(reader->ids(), Expected());
}

TEST_F(ResumableStreamsTest, IsCancelledAndForgottenWhenNobodyReadsIt) {
  MakeStreams(/*window=*/std::chrono::milliseconds(1));
  loopback_->ranks->Hold(true);
  ASSERT_TRUE(Begin(RequestOf("left")).ok());
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  // Its row goes once it is cancelled, while the ranks have not answered it.
  while (store_->Read({"", "left"}).ok() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(absl::IsNotFound(streams_->Resume("left", "").status()));
  EXPECT_EQ(loopback_->engine->Stats().cancelled, 1u);
  loopback_->ranks->Hold(false);
  loopback_->ExpectAllFreed();
}

// What has ended on disk is forgotten too, but not under a reader.
TEST_F(ResumableStreamsTest, AnEndedAnswerIsForgottenUnlessItIsRead) {
  for (const char* id : {"read", "unread"}) {
    ASSERT_TRUE(Read(Begin(RequestOf(id)))->WaitOver());
    WaitSaved(id, kTokens + 1);
  }
  Restart();
  const auto read = streams_->Resume("read", "");
  ASSERT_TRUE(read.ok());
  now_ms_ += 3'600'000;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  // Add finds its id free again.
  while (!store_->Add({"", "unread"}, RequestOf("unread"), "").ok() &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(store_->Read({"", "unread"})->events.events_size(), 0);
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Add({"", "read"}, RequestOf("read"), "").status()));
}

// Streams go on without a disk; new ones are refused until there is room.
TEST_F(ResumableStreamsTest, AFullDisk) {
  Restart("", /*most_pages=*/8);
  absl::Status status;
  std::shared_ptr<TestReader> last;
  for (int i = 0; i < 1000 && status.ok(); ++i) {
    const auto stream = Begin(RequestOf("full-" + std::to_string(i)));
    status = stream.status();
    if (!stream.ok()) break;
    last = Read(stream);
    ASSERT_TRUE(last->WaitOver());
    EXPECT_TRUE(last->status().ok()) << last->status();
    EXPECT_EQ(last->ids(), Expected());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  ASSERT_NE(last, nullptr);
  const auto first = Read(streams_->Resume("full-0", ""));
  ASSERT_TRUE(first->WaitOver());
  EXPECT_EQ(first->ids(), Expected());
}

TEST_F(ResumableStreamsTest, ManyReadersOfOneAreRefused) {
  loopback_->ranks->Hold(true);
  const auto stream = Begin(RequestOf("popular"));
  std::vector<std::shared_ptr<TestReader>> readers;
  absl::Status status;
  while (status.ok() && readers.size() < 100) {
    readers.push_back(std::make_shared<TestReader>());
    status = readers.back()->TryBegin(*stream);
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  readers.clear();
  EXPECT_TRUE(std::make_shared<TestReader>()->TryBegin(*stream).ok());
  loopback_->ranks->Hold(false);
}

TEST_F(ResumableStreamsTest, IsCancelledByName) {
  loopback_->ranks->Hold(true);
  const auto reader = Read(Begin(RequestOf("stop")));
  EXPECT_TRUE(absl::IsNotFound(streams_->Cancel("stop", "somebody")));
  ASSERT_TRUE(streams_->Cancel("stop", "").ok());
  ASSERT_TRUE(reader->WaitOver());
  EXPECT_TRUE(absl::IsAborted(reader->status())) << reader->status();
  loopback_->ranks->Hold(false);
  loopback_->ExpectAllFreed();
  // Also when it is asked for again, and when it waits on disk.
  WaitSaved("stop", 1);
  const auto again = Read(streams_->Resume("stop", ""));
  ASSERT_TRUE(again->WaitOver());
  EXPECT_TRUE(absl::IsAborted(again->status())) << again->status();
  ASSERT_TRUE(store_->Add({"", "asleep"}, RequestOf("asleep"), "").ok());
  ASSERT_TRUE(streams_->Cancel("asleep", "").ok());
  EXPECT_EQ(store_->Read({"", "asleep"})->end->code(),
            static_cast<int>(absl::StatusCode::kAborted));
}

TEST_F(ResumableStreamsTest, WhatCannotBeResumedIsRefusedByName) {
  v1::GenerateRequest request = RequestOf("two");
  request.mutable_options()->set_temperature(1);
  request.mutable_options()->set_n(2);
  absl::Status status = Begin(request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("options.n"));
  request = RequestOf("two");
  request.mutable_options()->set_prompt_logprobs(1);
  status = Begin(request).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("options.prompt_logprobs"));

  const auto first = Read(Begin(RequestOf("two")));
  ASSERT_TRUE(first->WaitOver());
  EXPECT_TRUE(absl::IsAlreadyExists(Begin(RequestOf("two")).status()));
  EXPECT_TRUE(absl::IsNotFound(streams_->Resume("two", "another tenant").status()));
  const auto beyond = Read(streams_->Resume("two", ""), kTokens + 1);
  ASSERT_TRUE(beyond->WaitOver());
  EXPECT_TRUE(absl::IsOutOfRange(beyond->status())) << beyond->status();

  ResumableStreams none(loopback_->frontend.get(), nullptr, {});
  EXPECT_TRUE(absl::IsFailedPrecondition(none.Run([] { FAIL(); })));
}

TEST_F(ResumableStreamsTest, AnotherModelDoesNotGoOn) {
  ASSERT_TRUE(store_->Add({"", "begun"}, RequestOf("begun"), "").ok());
  Restart("other weights");
  const absl::Status status = streams_->Resume("begun", "").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("other weights"));
}

TEST_F(ResumableStreamsTest, OneThatTheQueueRefusesLeavesNothing) {
  loopback_->ranks->Hold(true);
  absl::Status status;
  int taken = 0;
  std::vector<std::shared_ptr<TestReader>> readers;
  for (; taken < 30; ++taken) {
    auto stream = Begin(RequestOf("q" + std::to_string(taken)));
    status = stream.status();
    if (!status.ok()) break;
    readers.push_back(Read(stream));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  const std::string refused = "q" + std::to_string(taken);
  EXPECT_TRUE(absl::IsNotFound(store_->Read({"", refused}).status()));
  loopback_->ranks->Hold(false);
  for (const auto& reader : readers) {
    ASSERT_TRUE(reader->WaitOver());
    EXPECT_EQ(reader->ids(), Expected());
  }
  const auto now = Read(Begin(RequestOf(refused)));
  ASSERT_TRUE(now->WaitOver());
  EXPECT_EQ(now->ids(), Expected());
}

// What is drawn or taken from defaults is the same after a restart.
TEST_F(ResumableStreamsTest, TheSeedIsKept) {
  v1::GenerateRequest request = RequestOf("drawn");
  request.mutable_options()->clear_seed();
  request.mutable_options()->clear_max_tokens();
  const auto first = Read(Begin(request));
  ASSERT_TRUE(first->WaitTokens(3));
  loopback_->engine->Fail(absl::UnavailableError("a rank is lost"));
  ASSERT_TRUE(first->WaitOver());
  const std::vector<uint32_t> had = first->ids();
  Restart();
  const auto second = Read(streams_->Resume("drawn", ""));
  ASSERT_TRUE(second->WaitOver());
  std::vector<uint32_t> begins = second->ids();
  EXPECT_EQ(begins.size(), 195u);
  begins.resize(had.size());
  EXPECT_EQ(begins, had);
}

}  // namespace
}  // namespace whalepod
