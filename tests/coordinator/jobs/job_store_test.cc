#include "coordinator/jobs/job_store.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/jobs/test_store.h"

namespace whalepod {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class JobStoreTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(test_.Open().ok()); }
  JobStore& store() { return *test_.store; }
  v1::Job Submit(const NewJob& job) {
    auto made = store().Submit(job);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *made : v1::Job();
  }
  v1::Job Get(const v1::Job& job, const std::string& tenant = "") {
    auto found = store().Get(tenant, job.id());
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? *found : v1::Job();
  }
  int64_t KeyOfLast() { return store().Active()->back().key; }
  absl::Status Finish(int64_t job, uint32_t index, const std::string& body, uint32_t code = 200) {
    return store().Finish({{job, index, AnswerOf(body, code)}});
  }

  TestStore test_;
};

TEST_F(JobStoreTest, AJobFromItsStartToItsEnd) {
  NewJob wanted = JobOf(3);
  wanted.metadata["why"] = "test";
  wanted.priority = -7;
  const v1::Job made = Submit(wanted);
  EXPECT_EQ(made.state(), v1::JOB_STATE_QUEUED);
  EXPECT_EQ(made.priority(), -7);
  EXPECT_EQ(made.metadata().at("why"), "test");
  EXPECT_EQ(made.created_ms(), 1'000'000);
  EXPECT_EQ(made.expires_ms(), 1'060'000);
  const int64_t key = KeyOfLast();
  test_.now_ms = 1'000'500;
  ASSERT_TRUE(store().MarkStarted(key).ok());
  EXPECT_EQ(Get(made).state(), v1::JOB_STATE_RUNNING);

  ASSERT_TRUE(Finish(key, 2, "two").ok());
  ASSERT_TRUE(Finish(key, 0, "zero", 400).ok());
  const auto pending = store().Pending(key, 0, 10);
  ASSERT_TRUE(pending.ok());
  ASSERT_EQ(pending->size(), 1u);
  EXPECT_EQ(pending->front().index, 1u);
  EXPECT_EQ(pending->front().request, "1");
  EXPECT_EQ(pending->front().priority, -7);
  test_.now_ms = 1'000'900;
  ASSERT_TRUE(Finish(key, 1, "one").ok());

  const v1::Job ended = Get(made);
  EXPECT_EQ(ended.state(), v1::JOB_STATE_COMPLETED);
  EXPECT_EQ(ended.started_ms(), 1'000'500);
  EXPECT_EQ(ended.ended_ms(), 1'000'900);
  EXPECT_EQ(ended.counts().succeeded(), 2u);
  EXPECT_EQ(ended.counts().failed(), 1u);
  EXPECT_EQ(ended.usage().completion_tokens(), 9u);
  EXPECT_EQ(ended.usage().cost_dollars(), 1.5);
  EXPECT_THAT(*store().Active(), IsEmpty());
}

TEST_F(JobStoreTest, AnItemIsAnsweredOnce) {
  const v1::Job job = Submit(JobOf(2));
  const int64_t key = KeyOfLast();
  ASSERT_TRUE(Finish(key, 0, "first").ok());
  ASSERT_TRUE(Finish(key, 0, "second").ok());
  EXPECT_EQ(Get(job).counts().succeeded(), 1u);
  const auto results = store().Results("", job.id(), 0, "");
  ASSERT_EQ(results->items_size(), 1);
  EXPECT_EQ(results->items(0).answer().body(), "first");
}

TEST_F(JobStoreTest, AnIdempotencyKeyMakesOneJob) {
  const v1::Job job = Submit(JobOf(2, "key"));
  EXPECT_EQ(Submit(JobOf(2, "key")).id(), job.id());
  const auto other = store().Submit(JobOf(3, "key"));
  EXPECT_TRUE(absl::IsAlreadyExists(other.status()));
  EXPECT_THAT(std::string(other.status().message()), HasSubstr(job.id()));
  // Another's key is another key.
  EXPECT_NE(Submit(JobOf(3, "key", "bob")).id(), job.id());
  EXPECT_NE(Submit(JobOf(2)).id(), Submit(JobOf(2)).id());
  ASSERT_TRUE(test_.Open().ok());
  EXPECT_EQ(Submit(JobOf(2, "key")).id(), job.id());
}

TEST_F(JobStoreTest, OthersJobsAreNotThere) {
  const v1::Job job = Submit(JobOf(1, "", "alice"));
  EXPECT_TRUE(store().Get("alice", job.id()).ok());
  EXPECT_TRUE(absl::IsNotFound(store().Get("bob", job.id()).status()));
  EXPECT_TRUE(absl::IsNotFound(store().Cancel("bob", job.id()).status()));
  EXPECT_TRUE(absl::IsNotFound(store().Results("bob", job.id(), 0, "").status()));
  EXPECT_TRUE(absl::IsNotFound(store().Watch("bob", job.id(), 0, 1).status()));
  EXPECT_EQ(store().List("bob", 0, "")->jobs_size(), 0);
}

TEST_F(JobStoreTest, PagesHaveEveryJobAndEveryResultOnce) {
  std::vector<std::string> ids;
  for (int i = 0; i < 5; ++i) ids.insert(ids.begin(), Submit(JobOf(1)).id());
  std::vector<std::string> listed;
  std::string token;
  do {
    const auto page = store().List("", 2, token);
    ASSERT_TRUE(page.ok());
    EXPECT_LE(page->jobs_size(), 2);
    for (const v1::Job& job : page->jobs()) listed.push_back(job.id());
    token = page->next_page_token();
  } while (!token.empty());
  EXPECT_EQ(listed, ids);

  const v1::Job job = Submit(JobOf(7));
  const int64_t key = KeyOfLast();
  for (const uint32_t i : {6, 3, 0, 4, 5}) ASSERT_TRUE(Finish(key, i, absl::StrCat(i)).ok());
  std::vector<std::string> bodies;
  do {
    const auto page = store().Results("", job.id(), 2, token);
    ASSERT_TRUE(page.ok());
    for (const v1::JobItem& item : page->items()) bodies.push_back(item.answer().body());
    token = page->next_page_token();
  } while (!token.empty());
  EXPECT_THAT(bodies, ElementsAre("0", "3", "4", "5", "6"));
  EXPECT_TRUE(absl::IsInvalidArgument(store().Results("", job.id(), 2, "x").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(store().List("", 2, "-1").status()));
}

TEST_F(JobStoreTest, LongAnswersMakeShortPages) {
  const v1::Job job = Submit(JobOf(4));
  const int64_t key = KeyOfLast();
  for (uint32_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(Finish(key, i, std::string(1500 << 10, 'a' + static_cast<char>(i))).ok());
  }
  std::string token, first_letters;
  do {
    const auto page = store().Results("", job.id(), 0, token);
    ASSERT_TRUE(page.ok());
    EXPECT_LT(page->ByteSizeLong(), 4u << 20);
    for (const v1::JobItem& item : page->items()) first_letters += item.answer().body()[0];
    token = page->next_page_token();
  } while (!token.empty());
  EXPECT_EQ(first_letters, "abcd");
  EXPECT_LT(store().Watch("", job.id(), 0, 10)->ByteSizeLong(), 4u << 20);
}

TEST_F(JobStoreTest, AWatcherGoesOnWhereItWas) {
  const v1::Job job = Submit(JobOf(4));
  const int64_t key = KeyOfLast();
  ASSERT_TRUE(store().Finish({{key, 3, AnswerOf("3")}, {key, 1, AnswerOf("1")}}).ok());
  auto seen = store().Watch("", job.id(), 0, 10);
  ASSERT_EQ(seen->items_size(), 2);
  EXPECT_EQ(seen->items(0).index(), 3u);
  EXPECT_EQ(seen->items(1).index(), 1u);
  EXPECT_EQ(store().Watch("", job.id(), 2, 10)->items_size(), 0);
  ASSERT_TRUE(test_.Open().ok());
  ASSERT_TRUE(store().Cancel("", job.id()).ok());
  seen = store().Watch("", job.id(), 1, 10);
  ASSERT_EQ(seen->items_size(), 3);
  EXPECT_EQ(seen->items(0).index(), 1u);
  EXPECT_EQ(seen->items(0).ended(), 1u);
  EXPECT_EQ(seen->items(2).index(), 2u);
  EXPECT_EQ(seen->items(2).ended(), 3u);
  EXPECT_EQ(seen->items(2).answer().error_code(), "batch_cancelled");
  EXPECT_EQ(seen->job().state(), v1::JOB_STATE_CANCELLED);
}

TEST_F(JobStoreTest, CancelKeepsWhatIsAnswered) {
  const v1::Job job = Submit(JobOf(3));
  const int64_t key = KeyOfLast();
  ASSERT_TRUE(Finish(key, 1, "one").ok());
  ASSERT_TRUE(store().Cancel("", job.id()).ok());
  ASSERT_TRUE(Finish(key, 2, "too late").ok());
  const v1::Job ended = Get(job);
  EXPECT_EQ(ended.counts().cancelled(), 2u);
  EXPECT_EQ(ended.counts().succeeded(), 1u);
  EXPECT_EQ(store().Cancel("", job.id())->ended_ms(), ended.ended_ms());
  EXPECT_EQ(store().Results("", job.id(), 0, "")->items(2).answer().body(), "");
}

TEST_F(JobStoreTest, ExpiryEndsWhatIsLeft) {
  const v1::Job early = Submit(JobOf(2));
  ASSERT_TRUE(Finish(KeyOfLast(), 0, "zero").ok());
  test_.now_ms += 59'000;
  const v1::Job late = Submit(JobOf(2));
  ASSERT_TRUE(store().Expire().ok());
  EXPECT_EQ(Get(early).state(), v1::JOB_STATE_QUEUED);
  test_.now_ms += 1'000;
  ASSERT_TRUE(store().Expire().ok());
  EXPECT_EQ(Get(early).state(), v1::JOB_STATE_EXPIRED);
  EXPECT_EQ(Get(early).counts().expired(), 1u);
  EXPECT_EQ(Get(late).state(), v1::JOB_STATE_QUEUED);
}

TEST_F(JobStoreTest, EndedJobsAreDroppedAfterTheirTime) {
  test_.retention_ms = 10'000;
  ASSERT_TRUE(test_.Open().ok());
  const v1::Job first = Submit(JobOf(2, "key"));
  const v1::Job second = Submit(JobOf(3));
  const v1::Job open = Submit(JobOf(1));
  ASSERT_TRUE(store().Cancel("", first.id()).ok());
  test_.now_ms += 1;
  ASSERT_TRUE(store().Cancel("", second.id()).ok());
  test_.now_ms += 9'998;
  EXPECT_EQ(store().Drop().value(), 0);
  EXPECT_EQ(Get(first).state(), v1::JOB_STATE_CANCELLED);
  test_.now_ms += 1;
  EXPECT_EQ(store().Drop().value(), 1);
  EXPECT_TRUE(absl::IsNotFound(store().Get("", first.id()).status()));
  EXPECT_TRUE(absl::IsNotFound(store().Results("", first.id(), 0, "").status()));
  EXPECT_EQ(Get(second).counts().cancelled(), 3u);
  EXPECT_EQ(store().Results("", second.id(), 0, "")->items_size(), 3);
  EXPECT_EQ(Get(open).state(), v1::JOB_STATE_QUEUED);
  // Its idempotency key makes a new one.
  EXPECT_NE(Submit(JobOf(2, "key")).id(), first.id());
  // Places in lists stay those of what is left.
  EXPECT_EQ(store().List("", 10, "")->jobs_size(), 3);
}

TEST_F(JobStoreTest, ALowerPriorityNumberGoesFirst) {
  NewJob job = JobOf(1);
  for (const int priority : {100, 5, 100, -3}) {
    job.priority = priority;
    Submit(job);
  }
  std::vector<int64_t> keys;
  const auto listed = store().Active();
  for (const ActiveJob& active : *listed) keys.push_back(active.key);
  EXPECT_THAT(keys, ElementsAre(4, 2, 1, 3));
}

TEST_F(JobStoreTest, ListenersHearOfJobs) {
  std::vector<std::string> heard;
  const int number = store().AddListener([&](const std::string& id) { heard.push_back(id); });
  const std::string id = Submit(JobOf(2, "k")).id();
  const int64_t key = KeyOfLast();
  ASSERT_TRUE(store().Finish({{key, 0, AnswerOf("")}, {key, 1, AnswerOf("")}}).ok());
  EXPECT_THAT(heard, ElementsAre(id, id));
  store().RemoveListener(number);
  Submit(JobOf(1));
  EXPECT_EQ(heard.size(), 2u);
}

TEST_F(JobStoreTest, Files) {
  const auto file = store().AddFile("alice", "in.jsonl", "batch", std::string("a\0b", 3));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(store().ReadFile("alice", file->id, 0, 9).value(), std::string("a\0b", 3));
  EXPECT_EQ(store().ReadFile("alice", file->id, 0, 2).value(), std::string("a\0", 2));
  EXPECT_EQ(store().ReadFile("alice", file->id, kFilePart, 9).value(), "");
  EXPECT_EQ(store().GetFile("alice", file->id)->name, "in.jsonl");
  EXPECT_EQ(store().ListFiles("alice")->size(), 1u);
  EXPECT_EQ(store().ListFiles("bob")->size(), 0u);
  EXPECT_TRUE(absl::IsNotFound(store().ReadFile("bob", file->id, 0, 9).status()));
  EXPECT_TRUE(absl::IsNotFound(store().DeleteFile("bob", file->id)));
  EXPECT_TRUE(store().DeleteFile("alice", file->id).ok());
  EXPECT_TRUE(absl::IsNotFound(store().DeleteFile("alice", file->id)));
}

TEST_F(JobStoreTest, AFileIsReadPartByPart) {
  std::string content(2 * kFilePart + 3, 'x');
  content[kFilePart - 1] = 'a';
  content[kFilePart] = 'b';
  const auto other = store().AddFile("alice", "b", "batch", "other");
  const auto file = store().AddFile("alice", "a", "batch", content);
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE(test_.Open().ok());
  const auto read = [&](int64_t from, int64_t most) {
    return store().ReadFile("alice", file->id, from, most).value();
  };
  EXPECT_TRUE(read(0, 1 << 30) == content);
  EXPECT_TRUE(read(kFilePart, kFilePart) == content.substr(kFilePart, kFilePart));
  EXPECT_EQ(read(kFilePart, 2), "bx");
  EXPECT_EQ(read(2 * kFilePart, kFilePart), "xxx");
  EXPECT_EQ(read(4 * kFilePart, kFilePart), "");
  EXPECT_TRUE(store().DeleteFile("alice", file->id).ok());
  EXPECT_EQ(store().ReadFile("alice", other->id, 0, 9).value(), "other");
  // Its pages are free, and the next one has them.
  ASSERT_TRUE(store().AddFile("alice", "a", "batch", content).ok());
  EXPECT_LT(std::filesystem::file_size(test_.path()), 2u * content.size());
  ASSERT_TRUE(test_.Open(/*most_pages=*/2000).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(
      store().AddFile("alice", "c", "batch", content + content).status()));
  EXPECT_EQ(store().ListFiles("alice")->size(), 2u);
}

// Stores of before have a file's content in one piece.
TEST_F(JobStoreTest, AFileOfBefore) {
  test_.store.reset();
  {
    auto database = Database::Open("job store", test_.path());
    ASSERT_TRUE(database.ok()) << database.status();
    ASSERT_TRUE((*database)
                    ->Execute("DROP TABLE file_parts; INSERT INTO files(id, tenant, name, purpose, "
                              "created_ms, bytes, content) VALUES('f', '', 'n', 'batch', 1, 3, "
                              "x'616263')")
                    .ok());
  }
  ASSERT_TRUE(test_.Open().ok());
  EXPECT_EQ(store().ReadFile("", "f", 0, 9).value(), "abc");
  EXPECT_EQ(store().ReadFile("", "f", 0, 2).value(), "ab");
  EXPECT_EQ(store().ReadFile("", "f", kFilePart, 9).value(), "");
  EXPECT_TRUE(store().DeleteFile("", "f").ok());
}

// What is on disk is as before, and the store goes on when there is room again.
TEST_F(JobStoreTest, AFullDiskIsReported) {
  const v1::Job small = Submit(JobOf(2));
  const int64_t key = KeyOfLast();
  ASSERT_TRUE(test_.Open(/*most_pages=*/40).ok());
  NewJob large = JobOf(1);
  large.items[0].request = std::string(1 << 20, 'x');
  const auto refused = store().Submit(large);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()),
              ::testing::AllOf(HasSubstr(test_.path()), HasSubstr("full")));
  EXPECT_TRUE(absl::IsResourceExhausted(Finish(key, 0, std::string(1 << 20, 'x'))));
  EXPECT_EQ(Get(small).counts().succeeded(), 0u);
  EXPECT_EQ(store().List("", 0, "")->jobs_size(), 1);
  EXPECT_TRUE(Finish(key, 0, "short").ok());
  ASSERT_TRUE(test_.Open().ok());
  EXPECT_EQ(Get(small).counts().succeeded(), 1u);
  Submit(large);
}

TEST_F(JobStoreTest, AnotherProcessMayNotHoldIt) {
  JobStore::Options options;
  options.path = test_.path();
  options.now_ms = [] { return 0; };
  const auto second = JobStore::Open(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("another process"));
}

// Root may write everywhere, so it is somebody else for a while.
class ScopedUser {
 public:
  ScopedUser() : root_(geteuid() == 0) {
    if (root_) {
      EXPECT_EQ(seteuid(65534), 0);
    }
  }
  ~ScopedUser() {
    if (root_) {
      EXPECT_EQ(seteuid(0), 0);
    }
  }

 private:
  const bool root_;
};

TEST_F(JobStoreTest, AReadOnlyFileIsRefused) {
  using std::filesystem::perms;
  Submit(JobOf(1));
  test_.store.reset();
  const auto reading = perms::owner_read | perms::group_read | perms::others_read;
  const auto searching = perms::owner_exec | perms::group_exec | perms::others_exec;
  std::filesystem::permissions(test_.path(), reading);
  std::filesystem::permissions(test_.folder(), reading | searching);
  absl::Status status;
  {
    const ScopedUser nobody;
    status = test_.Open();
  }
  std::filesystem::permissions(test_.folder(), reading | searching | perms::owner_write);
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              ::testing::AllOf(HasSubstr(test_.path()), HasSubstr("only be read")));
}

TEST_F(JobStoreTest, AFileThatIsNoDatabaseIsRefused) {
  test_.store.reset();
  std::ofstream(test_.path()) << std::string(10000, 'z');
  std::filesystem::remove(test_.path() + "-wal");
  const absl::Status status = test_.Open();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(test_.path()));
}

// Any page that is overwritten is found out: at the start, or when it is read.
TEST_F(JobStoreTest, ACorruptFileIsRefused) {
  NewJob job = JobOf(200);
  for (NewItem& item : job.items) item.request = std::string(500, 'r');
  Submit(job);
  test_.store.reset();
  const auto size = std::filesystem::file_size(test_.path());
  ASSERT_GT(size, 20u * 4096);
  int found = 0;
  for (uintmax_t page = 1; page < size / 4096; page += 3) {
    std::filesystem::copy_file(test_.path(), test_.path() + ".good",
                               std::filesystem::copy_options::overwrite_existing);
    {
      std::fstream file(test_.path(), std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(page * 4096));
      file << std::string(64, '\xa5');
    }
    const absl::Status status = test_.Open();
    test_.store.reset();
    EXPECT_TRUE(absl::IsDataLoss(status)) << "page " << page << ": " << status;
    found += absl::IsDataLoss(status) ? 1 : 0;
    std::filesystem::rename(test_.path() + ".good", test_.path());
  }
  EXPECT_GT(found, 5);
  EXPECT_TRUE(test_.Open().ok());
}

TEST_F(JobStoreTest, OtherVersionsAndOtherProgramsAreRefused) {
  test_.store.reset();
  const auto run = [this](const char* sql) {
    auto database = Database::Open("test", test_.path());
    ASSERT_TRUE(database.ok());
    ASSERT_TRUE((*database)->Execute(sql).ok());
  };
  run("PRAGMA user_version=9");
  absl::Status status = test_.Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("found 9"));
  run("PRAGMA user_version=1; PRAGMA application_id=7");
  status = test_.Open();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("another program"));
}

TEST_F(JobStoreTest, AFolderThatIsNotThereIsNamed) {
  JobStore::Options options;
  options.path = test_.folder() + "/none/jobs.db";
  options.now_ms = [] { return 0; };
  const auto store = JobStore::Open(options);
  EXPECT_TRUE(absl::IsNotFound(store.status())) << store.status();
  EXPECT_THAT(std::string(store.status().message()), HasSubstr("none/jobs.db"));
}

}  // namespace
}  // namespace whalepod
