// The connections behind Gloo communicators (worker/comm/gloo.h): Gloo's pairs with their buffers,
// and the links that carry failures.
#pragma once

#include <gloo/transport/context.h>
#include <gloo/transport/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/comm/group.h"
#include "worker/comm/tcp_socket.h"

namespace whalepod {

// Before each piece's payload.
struct GlooPiece {
  OpKind kind;
  uint32_t from;   // place
  uint64_t piece;  // of this direction, from 0
  int64_t total;   // bytes of the whole message
  int64_t bytes;   // in this piece
};

// Pieces between two members, one direction: buffer n % 2 carries piece n. Receives are posted two
// ahead, so that a piece can leave as soon as it is sent.
struct GlooLane {
  std::array<std::vector<std::byte>, 2> memory;
  std::array<std::unique_ptr<gloo::transport::UnboundBuffer>, 2> buffers;
  uint64_t pieces = 0;  // begun
};

struct GlooGroup {
  Group group;
  std::string description;  // what all members must agree on
  size_t piece = 0;         // bytes of payload in one piece
  std::shared_ptr<gloo::transport::Context> context;
  std::vector<GlooLane> out;  // by place; the own one stays empty
  std::vector<GlooLane> in;
  FirstError error;

  // Makes the buffers of all lanes; needs the context.
  void MakeLanes();
  bool Holds(int global_rank) const;
  // Fails the group on this rank: the first error stays, and all waits end.
  void Interrupt(const absl::Status& first);
};

// What all of a rank's Gloo communicators share; goes with the last of them.
class GlooMesh {
 public:
  // Connects all groups (collective). `listener` is the one whose endpoint was the rendezvous.
  static absl::StatusOr<std::shared_ptr<GlooMesh>> Connect(
      const std::shared_ptr<gloo::transport::Device>& device, const TcpListener& listener,
      const CommunicatorFactory::Peers& peers, std::vector<std::unique_ptr<GlooGroup>> groups,
      TimePoint deadline, const Clock* clock);
  ~GlooMesh();
  GlooMesh(const GlooMesh&) = delete;
  GlooMesh& operator=(const GlooMesh&) = delete;

  // Owned by the mesh, in the order given.
  absl::Span<const std::unique_ptr<GlooGroup>> groups() const { return groups_; }

  // Tells the group's other members why it fails. Never blocks for long, errors are dropped.
  void Notify(const GlooGroup& group, const absl::Status& error);
  // Gives the watcher a moment to learn why a connection broke. Returns the group's error, or
  // UNAVAILABLE naming the place.
  absl::Status ReasonOfLoss(GlooGroup* group, int place, absl::string_view detail);

 private:
  struct Link {
    int rank = 0;
    FrameSocket socket;
    bool goodbye = false;  // said by the peer
    bool closed = false;
  };

  explicit GlooMesh(const Clock* clock) : clock_(clock) {}
  absl::Status Exchange(const TcpListener& listener, const CommunicatorFactory::Peers& peers,
                        TimePoint deadline);
  absl::Status AcceptHigher(const TcpListener& listener, const CommunicatorFactory::Peers& peers,
                            TimePoint deadline);
  std::string Hello(const CommunicatorFactory::Peers& peers, int to) const;
  absl::Status TakeHello(const CommunicatorFactory::Peers& peers, int from,
                         const std::string& hello);
  absl::Status ConnectPairs(TimePoint deadline);
  void Watch();
  void StopWatching();  // says goodbye first
  void Handle(Link* link);
  void HandleMessage(Link* link, const std::string& message);

  const Clock* const clock_;
  std::vector<std::unique_ptr<GlooGroup>> groups_;
  // Addresses of peers' pairs: [group][place].
  std::vector<std::vector<std::vector<char>>> addresses_;
  std::vector<std::unique_ptr<Link>> links_;  // by global rank ascending
  std::thread watcher_;
  UniqueFd wake_;  // eventfd that ends the watcher

  std::mutex mu_;  // guards goodbye and closed of links, and writes to them
  std::condition_variable changed_;
};

}  // namespace whalepod
