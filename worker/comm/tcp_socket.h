// TCP sockets that carry short framed messages between ranks: how they find each other and tell
// each other why they fail. Bulk data does not go here.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/unique_fd.h"

namespace whalepod {

// The first IPv4 address of a network interface, else its first IPv6 address that is not
// link-local. NOT_FOUND naming the interface.
absl::StatusOr<std::string> AddressOfInterface(const std::string& name);

struct TcpListener {
  UniqueFd fd;           // non-blocking
  std::string endpoint;  // "10.0.0.1:4000" or "[fd00::1]:4000"
};
// Listens on a free port of `address`, which must be one that peers can dial.
absl::StatusOr<TcpListener> ListenTcp(const std::string& address);

// A connected, non-blocking socket. DEADLINE_EXCEEDED or UNAVAILABLE naming the endpoint.
absl::StatusOr<UniqueFd> DialTcp(const std::string& endpoint, TimePoint deadline,
                                 const Clock* clock);
// The next connection, non-blocking; an invalid fd if none waits.
absl::StatusOr<UniqueFd> AcceptTcp(int listener);

// Messages of up to 1 MiB, each with its length before it. One reading and one writing thread at a
// time.
class FrameSocket {
 public:
  FrameSocket() = default;
  explicit FrameSocket(UniqueFd fd) : fd_(std::move(fd)) {}

  bool valid() const { return fd_.valid(); }
  int fd() const { return fd_.get(); }

  absl::Status Send(absl::string_view message, TimePoint deadline, const Clock* clock);
  // The next whole message if it is there. Never blocks. UNAVAILABLE once the peer has closed.
  absl::StatusOr<std::optional<std::string>> Poll();
  absl::StatusOr<std::string> Receive(TimePoint deadline, const Clock* clock);

 private:
  std::optional<std::string> TakeFrame();

  UniqueFd fd_;
  std::string read_;  // bytes not yet taken
};

}  // namespace whalepod
