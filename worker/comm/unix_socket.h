// Abstract Unix sockets that carry messages and file descriptors between ranks of one host.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/unique_fd.h"

namespace whalepod {

struct UnixListener {
  UniqueFd fd;       // non-blocking
  std::string name;  // abstract, unguessable
};
absl::StatusOr<UnixListener> ListenUnix();

// A connected socket; UNAVAILABLE if nobody listens.
absl::StatusOr<UniqueFd> DialUnix(const std::string& name, TimePoint deadline, const Clock* clock);

// The next connection made by this user, or an invalid fd if none waits. Others' are dropped.
absl::StatusOr<UniqueFd> AcceptUnix(int listener);

struct UnixMessage {
  std::string text;
  UniqueFd fd;  // invalid if none came
};
// One message, with `fd` unless it is negative.
absl::Status SendUnix(int socket, const std::string& text, int fd);
// The message that waits (call when readable). UNAVAILABLE if the other side is gone.
absl::StatusOr<UnixMessage> ReceiveUnix(int socket);

// Returns when one of `fds` is readable or closed, or at the deadline (false).
absl::StatusOr<bool> PollReadable(absl::Span<const int> fds, TimePoint deadline,
                                  const Clock* clock);
// True if the peer has closed its end. Reads nothing, never blocks.
bool HungUp(int socket);

}  // namespace whalepod
