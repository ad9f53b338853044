// The HTTP server's concurrency: many connections, clients that leave, shutdowns. What it answers
// is tested by real clients in tests/integration/http_test.py.
#include "coordinator/api/http_server.h"

#include <gmock/gmock.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <thread>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/coordinator/api/loopback_frontend.h"

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
  http::response<http::string_body> Receive() {
    http::response<http::string_body> response;
    beast::error_code error;
    http::read(socket_, buffer_, response, error);
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
  void Start(const HttpServer::Options& options) {
    server_.reset();
    auto started = HttpServer::Start(options, loopback_.frontend.get());
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

}  // namespace
}  // namespace whalepod
