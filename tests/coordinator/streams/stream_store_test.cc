#include "coordinator/streams/stream_store.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>

#include "coordinator/storage/store_file.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

class StreamStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = (std::filesystem::temp_directory_path() / "streams-XXXXXX").string();
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    ASSERT_TRUE(Open().ok());
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }

  // The store is closed first, as a new process would find it.
  absl::Status Open(int64_t most_pages = 0, int64_t most_streams = 0) {
    store_.reset();
    auto opened = StreamStore::Open({.path = path(),
                                     .now_ms = [this] { return now_ms_; },
                                     .most_pages = most_pages,
                                     .most_streams = most_streams});
    if (opened.ok()) store_ = *std::move(opened);
    return opened.status();
  }
  std::string path() const { return folder_ + "/streams.db"; }

  static v1::GenerateRequest RequestOf(const std::string& id) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    request.mutable_options()->set_seed(7);
    return request;
  }
  // Tokens `begin` up to `end`, one an event.
  static StreamAddition TokensOf(int64_t key, uint32_t begin, uint32_t end) {
    StreamAddition addition{.key = key, .first = begin};
    for (uint32_t i = begin; i < end; ++i) {
      addition.events.add_events()->mutable_tokens()->add_tokens()->set_token_id(i);
    }
    return addition;
  }
  static StreamAddition EndOf(int64_t key) {
    StreamAddition addition{.key = key};
    addition.end.emplace().set_code(4);
    addition.end->set_message("too late");
    return addition;
  }

  std::string folder_;
  int64_t now_ms_ = 1000;
  std::unique_ptr<StreamStore> store_;
};

TEST_F(StreamStoreTest, ATenantHasAsManyAsItMay) {
  ASSERT_TRUE(Open(0, 2).ok());
  const int64_t first = store_->Add({"anna", "one"}, RequestOf("one"), "model").value();
  ASSERT_TRUE(store_->Add({"anna", "two"}, RequestOf("two"), "model").ok());
  const absl::Status refused = store_->Add({"anna", "three"}, RequestOf("three"), "model").status();
  EXPECT_TRUE(absl::IsOutOfRange(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("at most 2"));
  EXPECT_TRUE(absl::IsAlreadyExists(store_->Add({"anna", "one"}, RequestOf("one"), "m").status()));
  EXPECT_TRUE(store_->Add({"ben", "one"}, RequestOf("one"), "model").ok());
  ASSERT_TRUE(store_->Remove(first).ok());
  EXPECT_TRUE(store_->Add({"anna", "three"}, RequestOf("three"), "model").ok());
}

TEST_F(StreamStoreTest, KeepsWhatIsAddedOverARestart) {
  const int64_t key = store_->Add({"anna", "one"}, RequestOf("one"), "model").value();
  ASSERT_TRUE(store_->Append({TokensOf(key, 0, 3)}).ok());
  ASSERT_TRUE(store_->Append({TokensOf(key, 3, 4)}).ok());
  ASSERT_TRUE(Open().ok());
  auto stream = store_->Read({"anna", "one"});
  ASSERT_TRUE(stream.ok()) << stream.status();
  EXPECT_EQ(stream->key, key);
  EXPECT_EQ(stream->request.options().seed(), 7u);
  EXPECT_EQ(stream->model, "model");
  EXPECT_FALSE(stream->end.has_value());
  ASSERT_EQ(stream->events.events_size(), 4);
  EXPECT_EQ(stream->events.events(3).tokens().tokens(0).token_id(), 3u);

  ASSERT_TRUE(store_->Append({EndOf(key)}).ok());
  stream = store_->Read({"anna", "one"});
  ASSERT_TRUE(stream->end.has_value());
  EXPECT_EQ(stream->end->message(), "too late");
}

TEST_F(StreamStoreTest, IdsAreATenantsOwn) {
  ASSERT_TRUE(store_->Add({"anna", "one"}, RequestOf("one"), "").ok());
  ASSERT_TRUE(store_->Add({"ben", "one"}, RequestOf("one"), "").ok());
  const absl::Status again = store_->Add({"anna", "one"}, RequestOf("one"), "").status();
  EXPECT_TRUE(absl::IsAlreadyExists(again)) << again;
  EXPECT_TRUE(absl::IsNotFound(store_->Read({"cleo", "one"}).status()));
}

TEST_F(StreamStoreTest, ExpiresWhatNobodyCaresFor) {
  const int64_t old = store_->Add({"", "old"}, RequestOf("old"), "").value();
  const int64_t kept = store_->Add({"", "spared"}, RequestOf("spared"), "").value();
  const int64_t read = store_->Add({"", "read"}, RequestOf("read"), "").value();
  ASSERT_TRUE(store_->Append({TokensOf(old, 0, 2)}).ok());
  now_ms_ = 2000;
  ASSERT_TRUE(store_->Append({StreamAddition{.key = read}}).ok());
  ASSERT_TRUE(store_->Expire(1500, {kept}).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Read({"", "old"}).status()));
  EXPECT_TRUE(store_->Read({"", "spared"}).ok());
  EXPECT_TRUE(store_->Read({"", "read"}).ok());
  // Its events went too: a new one of the id has none.
  ASSERT_TRUE(store_->Add({"", "old"}, RequestOf("old"), "").ok());
  EXPECT_EQ(store_->Read({"", "old"})->events.events_size(), 0);
}

TEST_F(StreamStoreTest, TimeInWhichNobodyCouldAskDoesNotCount) {
  ASSERT_TRUE(store_->Add({"", "one"}, RequestOf("one"), "").ok());
  now_ms_ = 100'000;
  ASSERT_TRUE(Open().ok());
  ASSERT_TRUE(store_->Expire(50'000, {}).ok());
  EXPECT_TRUE(store_->Read({"", "one"}).ok());
}

TEST_F(StreamStoreTest, RemovesOne) {
  const int64_t key = store_->Add({"", "one"}, RequestOf("one"), "").value();
  ASSERT_TRUE(store_->Append({TokensOf(key, 0, 2)}).ok());
  ASSERT_TRUE(store_->Remove(key).ok());
  EXPECT_TRUE(absl::IsNotFound(store_->Read({"", "one"}).status()));
}

// A gap would shift all tokens after it.
TEST_F(StreamStoreTest, AGapIsDataLoss) {
  const int64_t key = store_->Add({"", "one"}, RequestOf("one"), "").value();
  ASSERT_TRUE(store_->Append({TokensOf(key, 0, 2)}).ok());
  ASSERT_TRUE(store_->Append({TokensOf(key, 3, 5)}).ok());
  const absl::Status status = store_->Read({"", "one"}).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("from 3 on, expected from 2"));
}

TEST_F(StreamStoreTest, AFullDiskIsReportedAndLeavesAllOrNothing) {
  const int64_t key = store_->Add({"", "one"}, RequestOf("one"), "").value();
  ASSERT_TRUE(Open(/*most_pages=*/12).ok());
  absl::Status status;
  uint32_t events = 0;
  while (status.ok() && events < 100'000) {
    status = store_->Append({TokensOf(key, events, events + 100)});
    if (status.ok()) events += 100;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(path()));
  EXPECT_EQ(store_->Read({"", "one"})->events.events_size(), static_cast<int>(events));
}

TEST_F(StreamStoreTest, AJobStoreIsRefused) {
  ASSERT_TRUE(OpenStore(folder_ + "/other.db", {.name = "other store",
                                                .application = 99,
                                                .version = 1,
                                                .schema = "CREATE TABLE t(x INTEGER)"})
                  .ok());
  const absl::Status status =
      StreamStore::Open({.path = folder_ + "/other.db", .now_ms = [] { return 0; }}).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another program"));
}

}  // namespace
}  // namespace whalepod
