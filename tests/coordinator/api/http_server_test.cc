// The HTTP server's concurrency: many connections, clients that leave, shutdowns. What it answers
// is tested by real clients in tests/integration/http_test.py.
#include "coordinator/api/http_server.h"

#include <gmock/gmock.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/api/loopback_frontend.h"
#include "tests/coordinator/jobs/test_store.h"

namespace whalepod {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using ::testing::HasSubstr;

// A connection that blocks.
class Connection {
 public:
  explicit Connection(int port) : socket_(context_) {
    socket_.connect({asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(port)});
  }
  void Send(http::verb method, const std::string& path, const std::string& body) {
    http::request<http::string_body> request(method, path, 11);
    request.set(http::field::host, "test");
    request.body() = body;
    request.prepare_payload();
    http::write(socket_, request);
  }
  void Send(const http::request<http::string_body>& request) { http::write(socket_, request); }
  void SendText(const std::string& text) { asio::write(socket_, asio::buffer(text)); }
  http::response<http::string_body> Receive() {
    http::response<http::string_body> response;
    beast::error_code error;
    http::response_parser<http::string_body> parser;
    parser.body_limit(std::numeric_limits<uint64_t>::max());
    http::read(socket_, buffer_, parser, error);
    response = parser.release();
    EXPECT_FALSE(error) << error.message();
    return response;
  }
  // Some bytes of an answer.
  std::string ReceiveSome() {
    char bytes[512];
    return std::string(bytes, socket_.read_some(asio::buffer(bytes)));
  }

 private:
  asio::io_context context_;
  asio::ip::tcp::socket socket_;
  beast::flat_buffer buffer_;
};

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void Start(const HttpServer::Options& options, JobApi* jobs = nullptr) {
    server_.reset();
    auto started = HttpServer::Start(options, loopback_.frontend.get(), jobs);
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }
  static std::string Body(uint32_t salt, int max_tokens, bool stream) {
    return absl::StrCat(R"({"prompt":[)", salt, ",", salt + 1, R"(],"ignore_eos":true,"seed":)",
                        salt, R"(,"logprobs":0,"max_tokens":)", max_tokens, R"(,"stream":)",
                        stream ? "true" : "false", "}");
  }
  http::response<http::string_body> Ask(const std::string& body) {
    Connection connection(server_->port());
    connection.Send(http::verb::post, "/v1/completions", body);
    return connection.Receive();
  }

  LoopbackFrontend loopback_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, NotReadyIs503AndSaysWhy) {
  const auto refused = Ask(Body(1, 5, false));
  EXPECT_EQ(refused.result_int(), 503u);
  EXPECT_THAT(refused.body(), HasSubstr("1 of 2 ranks"));
  EXPECT_EQ(refused[http::field::retry_after], "1");
  Connection connection(server_->port());
  connection.Send(http::verb::get, "/health", "");
  EXPECT_EQ(connection.Receive().result_int(), 503u);
  loopback_.SetReady();
  connection.Send(http::verb::get, "/health", "");
  EXPECT_EQ(connection.Receive().result_int(), 200u);
}

TEST_F(HttpServerTest, ManyConnectionsGetTheirOwnTokens) {
  loopback_.SetReady();
  std::vector<std::thread> clients;
  std::atomic<int> right{0}, full{0};
  for (uint32_t c = 0; c < 12; ++c) {
    clients.emplace_back([&, c] {
      Connection connection(server_->port());
      for (uint32_t i = 0; i < 10; ++i) {
        const uint32_t salt = 10 * c + i;
        connection.Send(http::verb::post, "/v1/completions", Body(salt, 20, i % 2 == 0));
        const auto response = connection.Receive();
        if (response.result_int() == 429) {
          ++full;
          continue;
        }
        EXPECT_EQ(response.result_int(), 200u) << response.body();
        std::string expected;
        for (uint32_t t = 0; t < 20; ++t) {
          const std::string token =
              absl::StrCat("token_id:", ModelWorker::TokenAt({salt, salt + 1}, salt, t, 1000));
          EXPECT_THAT(response.body(), HasSubstr(absl::StrCat("\"", token, "\"")));
        }
        ++right;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right + full, 120);
  EXPECT_GT(right, 0);
  loopback_.ExpectAllFreed();
}

TEST_F(HttpServerTest, MetricsWhileRequestsRun) {
  loopback_.SetReady();
  std::atomic<bool> done{false};
  std::vector<std::thread> scrapers;
  for (int i = 0; i < 2; ++i) {
    scrapers.emplace_back([&] {
      Connection connection(server_->port());
      while (!done) {
        connection.Send(http::verb::get, "/metrics", "");
        EXPECT_THAT(connection.Receive().body(), HasSubstr("vllm:num_requests_running"));
      }
    });
  }
  constexpr int kClients = 3, kRequests = 5, kTokens = 12;
  std::vector<std::thread> clients;
  for (uint32_t c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      for (uint32_t i = 0; i < kRequests; ++i) {
        EXPECT_EQ(Ask(Body(10 * c + i, kTokens, false)).result_int(), 200u);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(Ask("{").result_int(), 400u);
  done = true;
  for (std::thread& scraper : scrapers) scraper.join();
  const std::string text = loopback_.frontend->MetricsText();
  const auto has = [&](const std::string& series, int value) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", series, " ", value, "\n")));
  };
  constexpr int kAll = kClients * kRequests;
  has("vllm:generation_tokens_total{model_name=\"r1-draft\"}", kAll * kTokens);
  has("vllm:request_queue_time_seconds_count{model_name=\"r1-draft\"}", kAll);
  has("vllm:inter_token_latency_seconds_count{model_name=\"r1-draft\"}", kAll * (kTokens - 1));
  const std::string requests = "whalepod:requests_total{model_name=\"r1-draft\",transport=\"http\"";
  has(requests + ",outcome=\"finished\"}", kAll);
  has(requests + ",outcome=\"rejected\"}", 1);
}

TEST_F(HttpServerTest, ClientsThatLeaveFreeEverything) {
  loopback_.SetReady();
  for (const bool stream : {true, false}) {
    loopback_.ranks->Hold(true);
    {
      Connection connection(server_->port());
      connection.Send(http::verb::post, "/v1/completions", Body(3, 150, stream));
      while (loopback_.engine->Stats().running + loopback_.engine->Stats().waiting == 0) {
        std::this_thread::yield();
      }
    }
    loopback_.ranks->Hold(false);
    loopback_.ExpectAllFreed();
  }
}

TEST_F(HttpServerTest, ASilentStreamIsKeptAlive) {
  Start({.heartbeat = std::chrono::milliseconds(20)});
  loopback_.SetReady();
  loopback_.ranks->Hold(true);
  Connection connection(server_->port());
  connection.Send(http::verb::post, "/v1/completions", Body(3, 5, true));
  std::string received;
  while (received.find(": keep-alive\n\n") == std::string::npos) {
    received += connection.ReceiveSome();
  }
  EXPECT_EQ(received.find("data:"), std::string::npos);
  loopback_.ranks->Hold(false);
  while (received.find("[DONE]") == std::string::npos) received += connection.ReceiveSome();
  loopback_.ExpectAllFreed();
}

TEST_F(HttpServerTest, ShutdownEndsWhatIsUnderWay) {
  loopback_.SetReady();
  loopback_.ranks->Hold(true);
  Connection idle(server_->port()), busy(server_->port());
  busy.Send(http::verb::post, "/v1/completions", Body(3, 100, true));
  while (loopback_.engine->Stats().running + loopback_.engine->Stats().waiting == 0) {
    std::this_thread::yield();
  }
  server_->Shutdown(std::chrono::milliseconds(20));
  loopback_.ranks->Hold(false);
  loopback_.ExpectAllFreed();
}

TEST_F(HttpServerTest, ASlowRequestIsCutOff) {
  Start({.read_timeout = std::chrono::milliseconds(30)});
  asio::io_context context;
  asio::ip::tcp::socket socket(context);
  socket.connect({asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(server_->port())});
  asio::write(socket, asio::buffer(std::string("POST /v1/completions HTTP/1.1\r\nContent-")));
  char byte;
  beast::error_code error;
  socket.read_some(asio::buffer(&byte, 1), error);
  EXPECT_TRUE(error);
}

TEST_F(HttpServerTest, TooManyConnectionsAreClosed) {
  Start({.most_connections = 1});
  loopback_.SetReady();
  Connection first(server_->port());
  first.Send(http::verb::get, "/healthz", "");
  EXPECT_EQ(first.Receive().result_int(), 200u);
  asio::io_context context;
  asio::ip::tcp::socket second(context);
  second.connect({asio::ip::make_address("127.0.0.1"), static_cast<uint16_t>(server_->port())});
  char byte;
  beast::error_code error;
  second.read_some(asio::buffer(&byte, 1), error);
  EXPECT_TRUE(error);
}

TEST_F(HttpServerTest, APortInUseIsAnError) {
  const auto second = HttpServer::Start({.port = server_->port()}, loopback_.frontend.get());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
}

// Beside files and batches.
class HttpUploadTest : public HttpServerTest {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test_.Open().ok());
    jobs_ = std::make_unique<JobApi>(test_.store.get(), nullptr,
                                     [](const v1::GenerateRequest&) { return absl::OkStatus(); });
    Start({}, jobs_.get());
  }
  // Before the store, which it writes to.
  void TearDown() override { server_.reset(); }

  static http::request<http::string_body> Upload(const std::string& content) {
    http::request<http::string_body> request(http::verb::post, "/v1/files", 11);
    request.set(http::field::content_type, "multipart/form-data; boundary=b");
    request.body() = absl::StrCat(
        "--b\r\nContent-Disposition: form-data; name=purpose\r\n\r\nbatch\r\n"
        "--b\r\nContent-Disposition: form-data; name=file; filename=a.jsonl\r\n\r\n",
        content, "\r\n--b--\r\n");
    request.prepare_payload();
    return request;
  }
  // More than other bodies may have, in which no part is like another.
  static std::string Content() {
    std::string content(9 << 20, 'x');
    for (size_t i = 0; i < content.size(); i += 997) content[i] = static_cast<char>('a' + i % 26);
    return content;
  }
  // The stored content of the file that an answer tells of.
  std::string Stored(const http::response<http::string_body>& response) {
    EXPECT_EQ(response.result_int(), 200u) << response.body();
    return test_.store->ReadFile("", nlohmann::json::parse(response.body())["id"], 0, 1 << 30)
        .value_or("");
  }

  TestStore test_;
  std::unique_ptr<JobApi> jobs_;
};

TEST_F(HttpUploadTest, FilesMayBeLargerThanOtherBodies) {
  const std::string content = Content();
  Connection connection(server_->port());
  http::request<http::string_body> request = Upload(content);
  connection.Send(request);
  EXPECT_EQ(Stored(connection.Receive()), content);
  // In chunks, with no length before.
  request.chunked(true);
  connection.Send(request);
  EXPECT_EQ(Stored(connection.Receive()), content);
  request.target("/v1/files/");
  connection.Send(request);
  EXPECT_EQ(Stored(connection.Receive()), content);
  request.target("/v1/chat/completions");
  connection.Send(request);
  const auto refused = connection.Receive();
  EXPECT_EQ(refused.result_int(), 413u);
  EXPECT_THAT(refused.body(), HasSubstr("4194304"));
}

TEST_F(HttpUploadTest, ALargeFileIsRefusedBeforeItComes) {
  const auto answer_to = [this](uint64_t length) {
    Connection connection(server_->port());
    connection.SendText(absl::StrCat("POST /v1/files HTTP/1.1\r\nHost: test\r\nContent-Length: ",
                                     length, "\r\nExpect: 100-continue\r\n\r\n"));
    return connection.Receive();
  };
  const auto too_large = answer_to(250'000'000);
  EXPECT_EQ(too_large.result_int(), 413u);
  EXPECT_THAT(too_large.body(), HasSubstr("200065536"));
  EXPECT_EQ(answer_to(150'000'000).result(), http::status::continue_);
  std::vector<TransferRoom::Share> others;
  // The connection before gives its share back once the server sees that it is gone.
  while (others.size() < 2) {
    absl::StatusOr<TransferRoom::Share> share = jobs_->transfers().Take("", 200'000'000);
    if (share.ok()) others.push_back(*std::move(share));
    std::this_thread::yield();
  }
  const auto busy = answer_to(150'000'000);
  EXPECT_EQ(busy.result_int(), 429u);
  EXPECT_EQ(busy[http::field::retry_after], "1");
  // What is small needs no room, whether its length is known or not.
  Connection small(server_->port());
  http::request<http::string_body> chunked = Upload("a small one in chunks");
  chunked.chunked(true);
  small.Send(chunked);
  EXPECT_EQ(Stored(small.Receive()), "a small one in chunks");
  chunked = Upload(std::string(5 << 20, 'x'));
  chunked.chunked(true);
  Connection grows(server_->port());
  others.push_back(*jobs_->transfers().Take("", 60'000'000));  // less than a step is left
  grows.Send(chunked);
  EXPECT_EQ(grows.Receive().result_int(), 429u);
  // It may still send, which takes no room.
  others.clear();
  EXPECT_TRUE(jobs_->transfers().Take("", 467'000'000).ok());
  small.Send(Upload("a small one"));
  EXPECT_EQ(Stored(small.Receive()), "a small one");
}

TEST_F(HttpUploadTest, AnUploadThatPausesIsCutOff) {
  Start({.upload_pause = std::chrono::milliseconds(30)}, jobs_.get());
  Connection connection(server_->port());
  connection.SendText("POST /v1/files HTTP/1.1\r\nHost: t\r\nContent-Length: 150000000\r\n\r\nabc");
  EXPECT_THROW(connection.ReceiveSome(), boost::system::system_error);
  // Its room is there again.
  while (!jobs_->transfers().Take("", 450'000'000).ok()) std::this_thread::yield();
}

TEST_F(HttpUploadTest, WhatWaitsWhenTheServerEndsIsDropped) {
  std::promise<void> hold;
  ASSERT_TRUE(jobs_->RunLong([held = hold.get_future().share()] { held.wait(); }).ok());
  Connection connection(server_->port());
  connection.Send(Upload(std::string(5 << 20, 'x')));
  // Read, and waiting: its room is taken and the connection is one that answers.
  while (jobs_->transfers().Take("", 465'000'000).ok()) std::this_thread::yield();
  std::thread shutdown([this] { server_->Shutdown(std::chrono::milliseconds(1)); });
  EXPECT_THROW(connection.ReceiveSome(), boost::system::system_error);
  hold.set_value();
  shutdown.join();
  EXPECT_TRUE(test_.store->ListFiles("")->empty());
}

TEST_F(HttpUploadTest, WhoHasNoKeySendsNoLargeFile) {
  const absl::StatusOr<ApiKeys> keys = ApiKeys::Parse({"secret"}, "");
  ASSERT_TRUE(keys.ok());
  Frontend frontend(
      loopback_.model, [](v1::GetStatusResponse*) {}, &loopback_.metrics, loopback_.usage.get(),
      *keys);
  const auto server = HttpServer::Start({}, &frontend, jobs_.get());
  ASSERT_TRUE(server.ok()) << server.status();
  Connection connection((*server)->port());
  connection.SendText("POST /v1/files HTTP/1.1\r\nHost: t\r\nContent-Length: 150000000\r\n\r\n");
  const auto refused = connection.Receive();
  EXPECT_EQ(refused.result_int(), 401u);
  EXPECT_FALSE(refused.keep_alive());
}

TEST_F(HttpUploadTest, LongFilesAreReadInPieces) {
  const std::string content = Content();
  const std::string file = test_.store->AddFile("", "a", "batch", content)->id;
  // A job with answers of 300 KB, and every third item an error.
  const v1::Job job = *test_.store->Submit(JobOf(30));
  const int64_t key = (*test_.store->Active())[0].key;
  std::vector<std::string> bodies;
  std::vector<EndedItem> ended;
  for (uint32_t i = 0; i < 30; ++i) {
    const std::string body =
        absl::StrCat("{\"n\":", i, ",\"t\":\"", std::string(300'000, 'y'), "\"}");
    const bool wrong = i % 3 == 0;
    ended.push_back({key, i, AnswerOf(body, wrong ? 400 : 200)});
    if (!wrong) bodies.push_back(body);
  }
  ASSERT_TRUE(test_.store->Finish(ended).ok());
  for (const unsigned version : {11, 10}) {
    const auto get = [&](const std::string& id) {
      Connection connection(server_->port());
      http::request<http::string_body> request(http::verb::get,
                                               absl::StrCat("/v1/files/", id, "/content"), version);
      request.set("X-Request-Id", "mine");
      connection.Send(request);
      auto response = connection.Receive();
      EXPECT_EQ(response.result_int(), 200u);
      EXPECT_EQ(response.chunked(), version == 11 && id != file);
      EXPECT_EQ(response.has_content_length(), !response.chunked());
      EXPECT_EQ(response["X-Request-Id"], "mine");
      EXPECT_EQ(response.keep_alive(), version == 11);
      return response.body();
    };
    EXPECT_TRUE(get(file) == content);
    std::vector<std::string> found;
    const std::string lines = get(absl::StrCat("file-out-", job.id()));
    for (const absl::string_view line : absl::StrSplit(lines, '\n', absl::SkipEmpty())) {
      found.push_back(nlohmann::json::parse(line)["response"]["body"].dump());
    }
    EXPECT_TRUE(found == bodies);  // too long to be shown
  }
}

}  // namespace
}  // namespace whalepod
