#include "worker/comm/unix_socket.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace whalepod {
namespace {

constexpr size_t kMaxMessage = 16384;

socklen_t AbstractAddress(const std::string& name, sockaddr_un* address) {
  *address = {};
  address->sun_family = AF_UNIX;
  size_t bytes = std::min(name.size(), sizeof(address->sun_path) - 1);
  std::memcpy(address->sun_path + 1, name.data(), bytes);
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + bytes);
}

}  // namespace

absl::StatusOr<UnixListener> ListenUnix() {
  std::array<char, 16> secret;
  if (getrandom(secret.data(), secret.size(), 0) != static_cast<ssize_t>(secret.size())) {
    return ErrnoStatus(errno, "getrandom");
  }
  UnixListener listener;
  listener.name = absl::StrCat(
      "whalepod-", absl::BytesToHexString(absl::string_view(secret.data(), secret.size())));
  listener.fd = UniqueFd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.fd.valid()) return ErrnoStatus(errno, "Unix socket");
  sockaddr_un address;
  socklen_t bytes = AbstractAddress(listener.name, &address);
  if (bind(listener.fd.get(), reinterpret_cast<sockaddr*>(&address), bytes) != 0) {
    return ErrnoStatus(errno, absl::StrCat("bind to Unix socket @", listener.name));
  }
  if (listen(listener.fd.get(), 4096) != 0) return ErrnoStatus(errno, "listen on Unix socket");
  return listener;
}

absl::StatusOr<UniqueFd> DialUnix(const std::string& name, TimePoint deadline, const Clock* clock) {
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "Unix socket");
  Duration left = std::clamp<Duration>(deadline - clock->Now(), std::chrono::milliseconds(1),
                                       std::chrono::hours(1));
  timeval limit{static_cast<time_t>(left.count() / 1000000000),
                static_cast<suseconds_t>(left.count() % 1000000000 / 1000)};
  if (setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) != 0) {
    return ErrnoStatus(errno, "SO_SNDTIMEO");
  }
  sockaddr_un address;
  socklen_t bytes = AbstractAddress(name, &address);
  int result;
  do {
    result = connect(fd.get(), reinterpret_cast<sockaddr*>(&address), bytes);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    return absl::UnavailableError(
        absl::StrCat("connect to Unix socket @", name, ": ", std::strerror(errno)));
  }
  return fd;
}

absl::StatusOr<UniqueFd> AcceptUnix(int listener) {
  UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return UniqueFd();
    return ErrnoStatus(errno, "accept on Unix socket");
  }
  ucred peer;
  socklen_t bytes = sizeof(peer);
  if (getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0 || peer.uid != geteuid()) {
    return UniqueFd();
  }
  return fd;
}

absl::Status SendUnix(int socket, const std::string& text, int fd) {
  iovec data{const_cast<char*>(text.data()), text.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) {
    return absl::UnavailableError(absl::StrCat("send on Unix socket: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<UnixMessage> ReceiveUnix(int socket) {
  std::string text(kMaxMessage, '\0');
  iovec data{text.data(), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t received;
  do {
    received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (received < 0 && errno == EINTR);
  UnixMessage result;
  if (received > 0) {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
         header = CMSG_NXTHDR(&message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      int fd;
      std::memcpy(&fd, CMSG_DATA(header), sizeof(int));
      result.fd = UniqueFd(fd);
    }
  }
  if (received <= 0 || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::UnavailableError(
        absl::StrCat("Unix socket: ", received < 0 ? std::strerror(errno)
                                                   : (received == 0 ? "closed" : "cut message")));
  }
  text.resize(received);
  result.text = std::move(text);
  return result;
}

absl::StatusOr<bool> PollReadable(absl::Span<const int> fds, TimePoint deadline,
                                  const Clock* clock) {
  std::vector<pollfd> polled;
  for (int fd : fds) polled.push_back({fd, POLLIN, 0});
  while (true) {
    Duration left = deadline - clock->Now();
    if (left <= Duration::zero()) return false;
    // Rounded up, so that the last look is not a busy one.
    auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(
        std::min<Duration>(left, std::chrono::seconds(1)));
    int ready = poll(polled.data(), polled.size(), static_cast<int>(milliseconds.count()));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return ErrnoStatus(errno, "poll");
  }
}

bool HungUp(int socket) {
  pollfd polled{socket, POLLRDHUP, 0};
  return poll(&polled, 1, 0) > 0 && (polled.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace whalepod
