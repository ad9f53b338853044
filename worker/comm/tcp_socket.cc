#include "worker/comm/tcp_socket.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {
namespace {

constexpr uint32_t kMaxFrame = 1 << 20;

struct Resolved {
  sockaddr_storage address = {};
  socklen_t bytes = 0;
  int family = AF_UNSPEC;
};

absl::StatusOr<Resolved> Resolve(const std::string& host, const std::string& port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat("address ", host, ": ", gai_strerror(error)));
  }
  Resolved resolved;
  std::memcpy(&resolved.address, found->ai_addr, found->ai_addrlen);
  resolved.bytes = found->ai_addrlen;
  resolved.family = found->ai_family;
  freeaddrinfo(found);
  return resolved;
}

// Numeric host and port.
absl::StatusOr<std::pair<std::string, std::string>> Numeric(const sockaddr* address,
                                                            socklen_t bytes) {
  std::array<char, NI_MAXHOST> host;
  std::array<char, NI_MAXSERV> port;
  if (int error = getnameinfo(address, bytes, host.data(), host.size(), port.data(), port.size(),
                              NI_NUMERICHOST | NI_NUMERICSERV);
      error != 0) {
    return absl::InternalError(absl::StrCat("getnameinfo: ", gai_strerror(error)));
  }
  return std::make_pair(std::string(host.data()), std::string(port.data()));
}

void NoDelay(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// True when ready, false at the deadline.
absl::StatusOr<bool> WaitFor(int fd, short events, TimePoint deadline, const Clock* clock) {
  while (true) {
    Duration left = deadline - clock->Now();
    if (left <= Duration::zero()) return false;
    auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(
        std::min<Duration>(left, std::chrono::seconds(1)));
    pollfd polled{fd, events, 0};
    int ready = poll(&polled, 1, static_cast<int>(milliseconds.count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
  }
}

}  // namespace

absl::StatusOr<std::string> AddressOfInterface(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return ErrnoStatus(errno, "getifaddrs");
  std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(list, &freeifaddrs);
  for (int family : {AF_INET, AF_INET6}) {
    for (ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
      if (name != entry->ifa_name || entry->ifa_addr == nullptr) continue;
      if (entry->ifa_addr->sa_family != family) continue;
      bool v4 = family == AF_INET;
      if (!v4 &&
          IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<sockaddr_in6*>(entry->ifa_addr)->sin6_addr)) {
        continue;
      }
      ASSIGN_OR_RETURN(auto numeric,
                       Numeric(entry->ifa_addr, v4 ? sizeof(sockaddr_in) : sizeof(sockaddr_in6)));
      return numeric.first;
    }
  }
  return absl::NotFoundError(absl::StrCat("network interface ", name, " has no address"));
}

absl::StatusOr<TcpListener> ListenTcp(const std::string& address) {
  ASSIGN_OR_RETURN(Resolved resolved, Resolve(address, "0"));
  TcpListener listener;
  listener.fd = UniqueFd(socket(resolved.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.fd.valid()) return ErrnoStatus(errno, "TCP socket");
  if (bind(listener.fd.get(), reinterpret_cast<sockaddr*>(&resolved.address), resolved.bytes) !=
          0 ||
      listen(listener.fd.get(), 4096) != 0) {
    return ErrnoStatus(errno, absl::StrCat("listen on ", address));
  }
  socklen_t bytes = sizeof(resolved.address);
  if (getsockname(listener.fd.get(), reinterpret_cast<sockaddr*>(&resolved.address), &bytes) != 0) {
    return ErrnoStatus(errno, "getsockname");
  }
  ASSIGN_OR_RETURN(auto numeric, Numeric(reinterpret_cast<sockaddr*>(&resolved.address), bytes));
  listener.endpoint = resolved.family == AF_INET6
                          ? absl::StrCat("[", numeric.first, "]:", numeric.second)
                          : absl::StrCat(numeric.first, ":", numeric.second);
  return listener;
}

absl::StatusOr<UniqueFd> DialTcp(const std::string& endpoint, TimePoint deadline,
                                 const Clock* clock) {
  size_t colon = endpoint.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("endpoint without a port: ", endpoint));
  }
  std::string host = endpoint.substr(0, colon);
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  ASSIGN_OR_RETURN(Resolved resolved, Resolve(host, endpoint.substr(colon + 1)));
  UniqueFd fd(socket(resolved.family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "TCP socket");
  NoDelay(fd.get());
  int error = 0;
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&resolved.address), resolved.bytes) != 0) {
    error = errno;
  }
  if (error == EINPROGRESS) {
    ASSIGN_OR_RETURN(bool ready, WaitFor(fd.get(), POLLOUT, deadline, clock));
    if (!ready) {
      return absl::DeadlineExceededError(
          absl::StrCat("connect to ", endpoint, ": no answer in time"));
    }
    socklen_t bytes = sizeof(error);
    if (getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
  }
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("connect to ", endpoint, ": ", std::strerror(error)));
  }
  return fd;
}

absl::StatusOr<UniqueFd> AcceptTcp(int listener) {
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return UniqueFd();
    return ErrnoStatus(errno, "accept");
  }
  NoDelay(fd.get());
  return fd;
}

absl::Status FrameSocket::Send(absl::string_view message, TimePoint deadline, const Clock* clock) {
  if (message.size() > kMaxFrame) {
    return absl::InternalError(
        absl::StrCat("message of ", message.size(), " bytes, at most ", kMaxFrame));
  }
  uint32_t bytes = htonl(static_cast<uint32_t>(message.size()));
  std::string frame(reinterpret_cast<const char*>(&bytes), sizeof(bytes));
  frame.append(message.data(), message.size());
  for (size_t sent = 0; sent < frame.size();) {
    ssize_t n = send(fd_.get(), frame.data() + sent, frame.size() - sent, MSG_NOSIGNAL);
    if (n > 0) {
      sent += n;
    } else if (errno == EAGAIN) {
      ASSIGN_OR_RETURN(bool ready, WaitFor(fd_.get(), POLLOUT, deadline, clock));
      if (!ready) return absl::DeadlineExceededError("peer does not read");
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("send: ", std::strerror(errno)));
    }
  }
  return absl::OkStatus();
}

std::optional<std::string> FrameSocket::TakeFrame() {
  uint32_t bytes;
  if (read_.size() < sizeof(bytes)) return std::nullopt;
  std::memcpy(&bytes, read_.data(), sizeof(bytes));
  bytes = ntohl(bytes);
  if (read_.size() < sizeof(bytes) + bytes) return std::nullopt;
  std::string frame = read_.substr(sizeof(bytes), bytes);
  read_.erase(0, sizeof(bytes) + bytes);
  return frame;
}

absl::StatusOr<std::optional<std::string>> FrameSocket::Poll() {
  std::array<char, 4096> chunk;
  while (true) {
    if (std::optional<std::string> frame = TakeFrame()) return frame;
    if (read_.size() > kMaxFrame + sizeof(uint32_t)) {
      return absl::UnavailableError("message longer than allowed");
    }
    ssize_t n = recv(fd_.get(), chunk.data(), chunk.size(), MSG_DONTWAIT);
    if (n > 0) {
      read_.append(chunk.data(), n);
    } else if (n == 0) {
      return absl::UnavailableError("connection closed");
    } else if (errno == EAGAIN) {
      return std::optional<std::string>();
    } else if (errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("receive: ", std::strerror(errno)));
    }
  }
}

absl::StatusOr<std::string> FrameSocket::Receive(TimePoint deadline, const Clock* clock) {
  while (true) {
    ASSIGN_OR_RETURN(std::optional<std::string> frame, Poll());
    if (frame.has_value()) return *std::move(frame);
    ASSIGN_OR_RETURN(bool ready, WaitFor(fd_.get(), POLLIN, deadline, clock));
    if (!ready) return absl::DeadlineExceededError("no answer in time");
  }
}

}  // namespace whalepod
