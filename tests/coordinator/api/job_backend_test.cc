// Jobs from the store through runner, backend, frontend and a real engine; batches' lines; forms.
#include "coordinator/api/job_backend.h"

#include <gmock/gmock.h>

#include <condition_variable>

#include "absl/strings/str_cat.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/api/http_batches.h"
#include "coordinator/api/job_api.h"
#include "coordinator/api/multipart.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/api/loopback_frontend.h"
#include "tests/coordinator/api/test_reader.h"
#include "tests/coordinator/jobs/test_store.h"

namespace whalepod {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRetentionMs = 3'600'000;

class JobBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test_.retention_ms = kRetentionMs;
    ASSERT_TRUE(test_.Open().ok());
    backend_ =
        std::make_unique<JobBackend>(loopback_.frontend.get(), test_.store.get(), [] { return 7; });
    api_ = std::make_unique<JobApi>(
        test_.store.get(), backend_.get(),
        [this](const v1::GenerateRequest& request) { return loopback_.frontend->Check(request); });
  }
  void TearDown() override { runner_.reset(); }
  void Begin() {
    JobRunner::Options options;
    options.most_in_flight = 12;  // more than the engine's queue and slots take
    options.first_retry = std::chrono::milliseconds(1);
    runner_ = std::make_unique<JobRunner>(test_.store.get(), backend_.get(), options);
    runner_->Start();
  }
  static std::string Line(uint32_t salt, int max_tokens) {
    return absl::StrCat(R"({"custom_id":"c)", salt, R"(","method":"POST","url":"/v1/completions",)",
                        R"("body":{"prompt":[)", salt, ",", salt + 1, R"(],"ignore_eos":true,)",
                        R"("seed":)", salt, R"(,"max_tokens":)", max_tokens, "}}\n");
  }
  v1::Job WaitOver(const std::string& id) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    v1::Job job;
    do {
      job = test_.store->Get("", id).value();
      std::this_thread::yield();
    } while (!IsOver(job.state()) && std::chrono::steady_clock::now() < deadline);
    EXPECT_TRUE(IsOver(job.state())) << job.DebugString();
    return job;
  }
  std::shared_ptr<TestReader> Watch(const std::string& id, uint32_t index, uint32_t from = 0) {
    const auto stream = backend_->Watch("", {id, index});
    EXPECT_TRUE(stream.ok()) << stream.status();
    auto reader = std::make_shared<TestReader>();
    reader->Begin(*stream, from);
    return reader;
  }
  static std::vector<uint32_t> TokensOf(uint32_t salt, uint32_t from, uint32_t to) {
    std::vector<uint32_t> tokens;
    for (uint32_t t = from; t < to; ++t) {
      tokens.push_back(ModelWorker::TokenAt({salt, salt + 1}, salt, t, 1000));
    }
    return tokens;
  }
  absl::StatusOr<BatchReply> Http(const std::string& method, const std::string& target,
                                  const std::string& body = "", const std::string& type = "") {
    return AnswerBatch(*api_, "",
                       {.method = method, .target = target, .content_type = type, .body = body});
  }

  TestStore test_;
  LoopbackFrontend loopback_;
  std::unique_ptr<JobBackend> backend_;
  std::unique_ptr<JobApi> api_;
  std::unique_ptr<JobRunner> runner_;
};

TEST_F(JobBackendTest, ItemsWaitUntilReadyAndGetTheirOwnTokens) {
  Begin();
  v1::SubmitJobRequest request;
  for (uint32_t i = 0; i < 40; ++i) request.mutable_jsonl()->append(Line(3 * i, 8));
  request.mutable_jsonl()->append("{\n" + Line(900, 100000));
  const auto job = api_->Submit("", request);
  ASSERT_TRUE(job.ok()) << job.status();
  loopback_.SetReady();
  const v1::Job over = WaitOver(job->id());
  EXPECT_EQ(over.counts().succeeded(), 40u);
  EXPECT_EQ(over.counts().failed(), 2u);
  EXPECT_EQ(over.usage().completion_tokens(), 320u);
  const auto accounts =
      loopback_.usage->Read({.from_day = "1970-01-01", .to_day = "1970-01-01"}).value();
  ASSERT_EQ(accounts.size(), 1u);
  EXPECT_EQ(accounts[0].source(), v1::USAGE_SOURCE_JOB);
  EXPECT_EQ(accounts[0].requests(), 40u);
  EXPECT_EQ(accounts[0].output_tokens(), 320u);
  EXPECT_NEAR(accounts[0].cost_dollars(), over.usage().cost_dollars(), 1e-12);
  const auto results = test_.store->Results("", job->id(), 0, "");
  ASSERT_EQ(results->items_size(), 42);
  for (uint32_t i = 0; i < 40; ++i) {
    const v1::JobAnswer& answer = results->items(static_cast<int>(i)).answer();
    ASSERT_EQ(answer.choices_size(), 1);
    ASSERT_EQ(answer.choices(0).token_ids_size(), 8);
    for (uint32_t t = 0; t < 8; ++t) {
      EXPECT_EQ(answer.choices(0).token_ids(static_cast<int>(t)),
                ModelWorker::TokenAt({3 * i, 3 * i + 1}, 3 * i, t, 1000));
    }
  }
  EXPECT_EQ(results->items(40).answer().error_code(), "invalid_line");
  EXPECT_THAT(results->items(40).answer().error_message(), HasSubstr("line 41"));
  EXPECT_EQ(results->items(41).answer().status_code(), 400u);
  EXPECT_THAT(results->items(41).answer().body(), HasSubstr("max_tokens"));
  loopback_.ExpectAllFreed();
}

TEST_F(JobBackendTest, ACancelledJobFreesTheEngine) {
  loopback_.SetReady();
  loopback_.ranks->Hold(true);
  Begin();
  v1::SubmitJobRequest request;
  for (uint32_t i = 0; i < 5; ++i) request.mutable_jsonl()->append(Line(i, 100));
  const std::string id = api_->Submit("", request)->id();
  while (loopback_.engine->Stats().running + loopback_.engine->Stats().waiting == 0) {
    std::this_thread::yield();
  }
  ASSERT_TRUE(test_.store->Cancel("", id).ok());
  loopback_.ranks->Hold(false);
  loopback_.ExpectAllFreed();
  EXPECT_EQ(test_.store->Get("", id)->counts().cancelled(), 5u);
}

// Before it is begun, meanwhile, and afterwards a watcher is told the same.
TEST_F(JobBackendTest, AnItemIsWatchedTokenByToken) {
  v1::SubmitJobRequest request;
  request.set_jsonl(Line(9, 20));
  const std::string id = api_->Submit("", request)->id();
  const auto early = Watch(id, 0);
  loopback_.ranks->HoldAfter(6);
  loopback_.SetReady();
  Begin();
  ASSERT_TRUE(early->WaitTokens(6));
  const auto late = Watch(id, 0), resumed = Watch(id, 0, 2);
  ASSERT_TRUE(late->WaitTokens(6));
  loopback_.ranks->Hold(false);
  WaitOver(id);
  const auto after = Watch(id, 0, 17), beyond = Watch(id, 0, 21);
  for (const auto& [reader, from] :
       {std::pair{early, 0u}, {late, 0u}, {resumed, 2u}, {after, 17u}}) {
    ASSERT_TRUE(reader->WaitOver());
    EXPECT_TRUE(reader->status().ok()) << reader->status();
    EXPECT_EQ(reader->ids(), TokensOf(9, from, 20));
    EXPECT_EQ(reader->finished().reason(), v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(reader->finished().usage().completion_tokens(), 20u);
  }
  ASSERT_TRUE(beyond->WaitOver());
  EXPECT_TRUE(absl::IsOutOfRange(beyond->status())) << beyond->status();
}

TEST_F(JobBackendTest, WatchersOfWhatHasNoAnswerAreTold) {
  v1::SubmitJobRequest request;
  std::string several = Line(3, 4);
  several.replace(several.find("\"seed\""), 6, "\"n\":2,\"seed\"");
  request.set_jsonl(several + "{\n" + Line(1, 100000) + Line(2, 100));
  const std::string id = api_->Submit("", request)->id();
  EXPECT_TRUE(absl::IsOutOfRange(backend_->Watch("", {id, 4}).status()));
  EXPECT_TRUE(absl::IsNotFound(backend_->Watch("another", {id, 0}).status()));
  loopback_.ranks->HoldAfter(50);  // before the last item is whole
  loopback_.SetReady();
  const auto two = Watch(id, 0), bad_line = Watch(id, 1), refused = Watch(id, 2);
  const auto cancelled = Watch(id, 3);
  Begin();
  ASSERT_TRUE(cancelled->WaitTokens(1));
  ASSERT_TRUE(refused->WaitOver());
  ASSERT_TRUE(test_.store->Cancel("", id).ok());
  ASSERT_TRUE(two->WaitOver() && bad_line->WaitOver() && cancelled->WaitOver());
  loopback_.ranks->Hold(false);
  EXPECT_TRUE(absl::IsFailedPrecondition(two->status())) << two->status();
  EXPECT_THAT(std::string(bad_line->status().message()), HasSubstr("line 2"));
  EXPECT_TRUE(absl::IsAborted(refused->status())) << refused->status();
  EXPECT_THAT(std::string(refused->status().message()), HasSubstr("max_tokens"));
  EXPECT_TRUE(absl::IsAborted(cancelled->status())) << cancelled->status();
  EXPECT_THAT(std::string(cancelled->status().message()), HasSubstr("cancelled"));
  // Whoever comes back with more than there is learns it too.
  const auto back = Watch(id, 3, static_cast<uint32_t>(cancelled->ids().size()) + 9);
  ASSERT_TRUE(back->WaitOver());
  EXPECT_EQ(back->status(), cancelled->status());
}

// What a watcher has been told of as ended is on disk.
TEST_F(JobBackendTest, TheEndIsToldOnceItIsOnDisk) {
  loopback_.SetReady();
  Begin();
  for (uint32_t i = 0; i < 40; ++i) {
    v1::SubmitJobRequest request;
    request.set_jsonl(Line(i, 3));
    const std::string id = api_->Submit("", request)->id();
    const auto reader = Watch(id, 0);
    ASSERT_TRUE(reader->WaitOver());
    ASSERT_TRUE(reader->status().ok()) << reader->status();
    ASSERT_EQ(test_.store->Results("", id, 0, "")->items_size(), 1);
  }
}

// Cancelled before their turn comes.
TEST_F(JobBackendTest, WatchersOfWhatNeverRanAreTold) {
  v1::SubmitJobRequest request;
  request.set_jsonl(Line(2, 100));
  const std::string id = api_->Submit("", request)->id();
  const auto reader = Watch(id, 0);
  ASSERT_TRUE(test_.store->Cancel("", id).ok());
  ASSERT_TRUE(reader->WaitOver());
  EXPECT_TRUE(absl::IsAborted(reader->status())) << reader->status();
}

TEST_F(JobBackendTest, NoMoreThanSoManyAreWatched) {
  v1::SubmitJobRequest request;
  for (uint32_t i = 0; i < 65; ++i) request.mutable_jsonl()->append(Line(i, 100));
  const std::string id = api_->Submit("", request)->id(), other = api_->Submit("x", request)->id();
  std::vector<std::shared_ptr<TestReader>> readers;
  for (uint32_t i = 0; i < 64; ++i) readers.push_back(Watch(id, i));
  EXPECT_TRUE(absl::IsResourceExhausted(backend_->Watch("", {id, 64}).status()));
  EXPECT_TRUE(backend_->Watch("", {id, 3}).ok()) << "all who watch one have one stream";
  EXPECT_TRUE(backend_->Watch("x", {other, 0}).ok()) << "others have places of their own";
  readers.pop_back();
  // Once the backend has told it what there is.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!backend_->Watch("", {id, 64}).ok()) {
    ASSERT_LT(std::chrono::steady_clock::now(), deadline);
    std::this_thread::yield();
  }
}

TEST_F(JobBackendTest, AResumableRequestIsRefusedByName) {
  v1::SubmitJobRequest request;
  request.mutable_generate()->set_resumable(true);
  const absl::Status status = api_->Submit("", request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("generate.resumable"));
}

// One request that is wrong is refused once the model is known; before, its answer says so.
TEST_F(JobBackendTest, AWrongRequestIsRefusedAtOnce) {
  v1::SubmitJobRequest request;
  request.mutable_generate()->mutable_token_ids()->add_ids(3);
  request.mutable_generate()->mutable_options()->set_temperature(9);
  request.set_idempotency_key("early");
  const auto early = api_->Submit("", request);
  ASSERT_TRUE(early.ok()) << early.status();
  loopback_.SetReady();
  EXPECT_EQ(api_->Submit("", request)->id(), early->id()) << "whoever repeats a call has its job";
  request.clear_idempotency_key();
  const absl::Status status = api_->Submit("", request).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("temperature"));
  Begin();
  EXPECT_EQ(WaitOver(early->id()).counts().failed(), 1u);
}

// An item without a seed that is begun anew is the same.
TEST_F(JobBackendTest, AMissingSeedIsTheItemsOwn) {
  loopback_.SetReady();
  PendingItem item;
  item.job_id = "job-1";
  item.index = 4;
  v1::GenerateRequest generate;
  generate.mutable_token_ids()->add_ids(3);
  generate.mutable_options()->set_max_tokens(5);
  generate.mutable_options()->set_ignore_eos(true);
  item.request = generate.SerializeAsString();
  const auto run = [&] {
    std::mutex mu;
    std::condition_variable ended;
    std::optional<absl::StatusOr<v1::JobAnswer>> got;
    const auto call = backend_->Start(item, [&](absl::StatusOr<v1::JobAnswer> answer) {
      std::lock_guard lock(mu);
      got = std::move(answer);
      ended.notify_all();
    });
    std::unique_lock lock(mu);
    ended.wait(lock, [&] { return got.has_value(); });
    EXPECT_TRUE(got->ok()) << got->status();
    const auto& ids = (*got)->choices(0).token_ids();
    return std::vector<uint32_t>(ids.begin(), ids.end());
  };
  const std::vector<uint32_t> first = run();
  EXPECT_EQ(run(), first);
  item.index = 5;
  EXPECT_NE(run(), first);
}

TEST_F(JobBackendTest, WrongRequestsNameTheField) {
  v1::SubmitJobRequest request;
  EXPECT_TRUE(absl::IsInvalidArgument(api_->Submit("", request).status()));
  request.set_jsonl("\n \n");
  EXPECT_THAT(std::string(api_->Submit("", request).status().message()), HasSubstr("jsonl"));
  request.set_jsonl(Line(1, 2));
  request.set_priority(5000);
  EXPECT_THAT(std::string(api_->Submit("", request).status().message()), HasSubstr("priority"));
  request.clear_priority();
  request.set_expires_after_seconds(1u << 30);
  EXPECT_THAT(std::string(api_->Submit("", request).status().message()), HasSubstr("expires"));
  JobApi none(nullptr, nullptr, [](const v1::GenerateRequest&) { return absl::OkStatus(); });
  const absl::Status refused = none.Submit("", request).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--jobs-db"));
}

TEST(BatchFormat, EachBadLineSaysWhyAndTheOthersRun) {
  const std::string good = R"({"custom_id":"a","method":"POST","url":"/v1/chat/completions",)"
                           R"("body":{"messages":[{"role":"user","content":"hi"}]}})";
  const auto with = [&good](const std::string& from, const std::string& to) {
    std::string line = good;
    line.replace(line.find(from), from.size(), to);
    return line;
  };
  const std::vector<std::pair<std::string, std::string>> bad = {
      {"not json", "JSON"},
      {"[1]", "object"},
      {"\xff\xfe", "JSON"},
      {with(R"("a")", "7"), "custom_id"},
      {with(R"("a")", "\"\""), "custom_id"},
      {good, "earlier line"},
      {with(R"("a")", "\"b\""), ""},
      {with("POST", "GET"), "earlier line"},
  };
  std::string text = good + "\n\n";
  for (const auto& [line, why] : bad) text += line + "\r\n";
  const auto items = ParseBatch(text, "/v1/chat/completions");
  ASSERT_TRUE(items.ok()) << items.status();
  ASSERT_EQ(items->size(), bad.size() + 1);
  EXPECT_FALSE((*items)[0].failed.has_value());
  for (size_t i = 0; i < bad.size(); ++i) {
    const NewItem& item = (*items)[i + 1];
    EXPECT_EQ(item.line, i + 3);
    ASSERT_EQ(item.failed.has_value(), !bad[i].second.empty()) << bad[i].first;
    if (!item.failed) continue;
    EXPECT_THAT(item.failed->error_message(), HasSubstr(absl::StrCat("line ", i + 3, ": ")));
    EXPECT_THAT(item.failed->error_message(), HasSubstr(bad[i].second));
  }
  const auto refuse = [&](const std::string& line, const std::string& url) {
    return ParseBatch(line, url).value()[0].failed.value();
  };
  EXPECT_THAT(refuse(with("POST", "GET"), "").error_message(), HasSubstr("method"));
  EXPECT_THAT(refuse(with("chat/", "x/"), "").error_message(), HasSubstr("url"));
  EXPECT_THAT(refuse(good, "/v1/completions").error_message(), HasSubstr("endpoint"));
  const v1::JobAnswer parsed = refuse(with(R"("messages")", R"("stream":true,"messages")"), "");
  EXPECT_EQ(parsed.status_code(), 400u);
  EXPECT_THAT(parsed.body(), HasSubstr("stream"));
}

TEST(Multipart, Forms) {
  const std::string type = "multipart/form-data; boundary=\"xyz\"";
  const std::string body =
      "--xyz\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
      "--xyz\r\nContent-Type: text/plain\r\n"
      "content-disposition: form-data; name=\"file\"; filename=\"a \\\"b\\\".jsonl\"\r\n\r\n"
      "line\r\n--xy\r\n\r\n--xyz--\r\n";
  const auto parts = ParseMultipart(type, body);
  ASSERT_TRUE(parts.ok()) << parts.status();
  ASSERT_EQ(parts->size(), 2u);
  EXPECT_EQ((*parts)[0].name, "purpose");
  EXPECT_EQ((*parts)[0].content, "batch");
  EXPECT_EQ((*parts)[1].filename, "a \"b\".jsonl");
  EXPECT_EQ((*parts)[1].content, "line\r\n--xy\r\n");
  // Nothing that is cut off is taken.
  for (size_t size = 0; size + 4 < body.size(); ++size) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseMultipart(type, body.substr(0, size)).status()))
        << size;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(ParseMultipart("application/json", body).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(ParseMultipart("multipart/form-data", body).status()));
}

TEST_F(JobBackendTest, FilesAndBatchesOverHttp) {
  loopback_.SetReady();
  Begin();
  const std::string form =
      "--b\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n"
      "Content-Disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n" +
      Line(5, 4) + "oops\n\r\n--b--\r\n";
  const auto file = Http("POST", "/v1/files", form, "multipart/form-data; boundary=b");
  ASSERT_TRUE(file.ok()) << file.status();
  const std::string file_id = nlohmann::json::parse(file->body)["id"];
  EXPECT_EQ(Http("GET", "/v1/files/" + file_id + "/content")->body, Line(5, 4) + "oops\n");
  const auto made = Http("POST", "/v1/batches",
                         R"({"input_file_id":")" + file_id +
                             R"(","endpoint":"/v1/completions","completion_window":"24h"})");
  ASSERT_TRUE(made.ok()) << made.status();
  const std::string id = nlohmann::json::parse(made->body)["id"];
  WaitOver(id);
  const auto batch = nlohmann::json::parse(Http("GET", "/v1/batches/" + id)->body);
  EXPECT_EQ(batch["status"], "completed");
  EXPECT_EQ(batch["request_counts"]["completed"], 1);
  EXPECT_EQ(batch["request_counts"]["failed"], 1);
  const std::string output = batch["output_file_id"], errors = batch["error_file_id"];
  const auto answer = nlohmann::json::parse(Http("GET", "/v1/files/" + output + "/content")->body);
  EXPECT_EQ(answer["custom_id"], "c5");
  EXPECT_EQ(answer["response"]["status_code"], 200);
  EXPECT_EQ(answer["response"]["body"]["usage"]["completion_tokens"], 4);
  const auto output_file = nlohmann::json::parse(Http("GET", "/v1/files/" + output)->body);
  EXPECT_EQ(output_file["expires_at"].get<int64_t>(),
            output_file["created_at"].get<int64_t>() + kRetentionMs / 1000);
  EXPECT_TRUE(
      nlohmann::json::parse(Http("GET", "/v1/files/" + file_id)->body)["expires_at"].is_null());
  const auto error = nlohmann::json::parse(Http("GET", "/v1/files/" + errors + "/content")->body);
  EXPECT_EQ(error["error"]["line"], 2);
  EXPECT_TRUE(error["response"].is_null());
  EXPECT_EQ(nlohmann::json::parse(Http("GET", "/v1/batches?limit=1")->body)["has_more"], false);
  EXPECT_EQ(Http("PUT", "/v1/batches")->status, 405);
  EXPECT_TRUE(absl::IsNotFound(Http("GET", "/v1/files/none").status()));
  EXPECT_TRUE(Http("DELETE", "/v1/files/" + file_id).ok());
  EXPECT_TRUE(absl::IsNotFound(Http("GET", "/v1/files/" + file_id).status()));
}

}  // namespace
}  // namespace whalepod
