#include "coordinator/api/http_server.h"

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/log.h"
#include "coordinator/api/http_session.h"

namespace whalepod {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

class BeastServer final : public HttpServer {
 public:
  BeastServer(const Options& options, Frontend* frontend, JobApi* jobs)
      : options_(options),
        frontend_(frontend),
        jobs_(jobs),
        work_(context_.get_executor()),
        acceptor_(asio::make_strand(context_)) {}

  ~BeastServer() override { Shutdown(std::chrono::milliseconds(0)); }

  absl::Status Listen() {
    const std::string name = HostPort(options_.host, options_.port);
    const auto fails = [&name](const boost::system::error_code& error) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", name, " for HTTP: ", error.message()));
    };
    boost::system::error_code error;
    const auto found = tcp::resolver(context_).resolve(
        options_.host, absl::StrCat(options_.port),
        tcp::resolver::passive | tcp::resolver::address_configured, error);
    if (error || found.empty()) return fails(error);
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), error);
    // A port whose last connections linger can be taken again, one that is in use cannot.
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) return fails(error);
    port_ = acceptor_.local_endpoint(error).port();
    if (error) return fails(error);
    Accept();
    for (int i = 0; i < options_.threads; ++i) threads_.emplace_back([this] { context_.run(); });
    return absl::OkStatus();
  }

  int port() const override { return port_; }

  void Shutdown(std::chrono::milliseconds grace) override {
    if (threads_.empty()) return;
    asio::post(acceptor_.get_executor(), [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
    });
    ForEachSession([](HttpSession& session) { session.CloseWhenIdle(); });
    WaitGone(grace);
    ForEachSession([](HttpSession& session) { session.Close(); });
    // Sessions whose text is being encoded go when that is done.
    WaitGone(std::chrono::hours(1));
    work_.reset();
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  void Accept() {
    acceptor_.async_accept(
        asio::make_strand(context_), [this](boost::system::error_code error, tcp::socket socket) {
          if (error == asio::error::operation_aborted || !acceptor_.is_open()) return;
          if (error) {
            spdlog::warn("HTTP: a connection was not accepted: {}", error.message());
          } else {
            Begin(std::move(socket));
          }
          Accept();
        });
  }

  void Begin(tcp::socket socket) {
    if (*open_ >= options_.most_connections) return;  // closes it
    boost::system::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    ++*open_;
    const std::shared_ptr<const void> place(open_.get(), [open = open_](const void*) { --*open; });
    const auto session =
        std::make_shared<HttpSession>(std::move(socket), options_, frontend_, jobs_, place);
    {
      std::lock_guard lock(mu_);
      std::erase_if(sessions_, [](const auto& weak) { return weak.expired(); });
      sessions_.push_back(session);
    }
    asio::post(session->executor(), [session] { session->Read(); });
  }

  template <typename Fn>
  void ForEachSession(Fn fn) {
    std::lock_guard lock(mu_);
    for (const std::weak_ptr<HttpSession>& weak : sessions_) {
      if (const std::shared_ptr<HttpSession> session = weak.lock()) {
        asio::post(session->executor(), [session, fn] { fn(*session); });
      }
    }
  }

  void WaitGone(std::chrono::milliseconds limit) const {
    constexpr std::chrono::milliseconds kPoll(5);
    for (auto left = limit; *open_ > 0 && left.count() > 0; left -= kPoll) {
      std::this_thread::sleep_for(kPoll);
    }
  }

  const Options options_;
  Frontend* const frontend_;
  JobApi* const jobs_;
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  tcp::acceptor acceptor_;  // on a strand of its own
  int port_ = 0;
  const std::shared_ptr<std::atomic<int>> open_ = std::make_shared<std::atomic<int>>(0);
  std::mutex mu_;
  std::vector<std::weak_ptr<HttpSession>> sessions_;
  std::vector<std::thread> threads_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const Options& options,
                                                              Frontend* frontend, JobApi* jobs) {
  auto server = std::make_unique<BeastServer>(options, frontend, jobs);
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace whalepod
