#include "worker/comm/gloo_mesh.h"

#include <gloo/transport/pair.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <exception>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"

namespace whalepod {
namespace {

constexpr absl::string_view kProtocol = "whalepod gloo 1";
constexpr absl::string_view kGoodbye = "goodbye";
constexpr Duration kGoodbyeWait = std::chrono::seconds(2);
constexpr Duration kNoticeWait = std::chrono::milliseconds(200);

}  // namespace

void GlooGroup::MakeLanes() {
  size_t bytes = sizeof(GlooPiece) + piece;
  out.resize(group.size());
  in.resize(group.size());
  for (int place = 0; place < group.size(); ++place) {
    if (place == group.rank) continue;
    for (GlooLane* lane : {&out[place], &in[place]}) {
      for (size_t slot = 0; slot < 2; ++slot) {
        lane->memory[slot].resize(bytes);
        lane->buffers[slot] = context->createUnboundBuffer(lane->memory[slot].data(), bytes);
      }
    }
  }
}

bool GlooGroup::Holds(int global_rank) const {
  return std::count(group.ranks.begin(), group.ranks.end(), global_rank) > 0;
}

void GlooGroup::Interrupt(const absl::Status& first) {
  error.Set(first).IgnoreError();
  for (GlooLane& lane : out) {
    for (auto& buffer : lane.buffers) {
      if (buffer != nullptr) buffer->abortWaitSend();
    }
  }
  for (GlooLane& lane : in) {
    for (auto& buffer : lane.buffers) {
      if (buffer != nullptr) buffer->abortWaitRecv();
    }
  }
}

absl::StatusOr<std::shared_ptr<GlooMesh>> GlooMesh::Connect(
    const std::shared_ptr<gloo::transport::Device>& device, const TcpListener& listener,
    const CommunicatorFactory::Peers& peers, std::vector<std::unique_ptr<GlooGroup>> groups,
    TimePoint deadline, const Clock* clock) {
  std::shared_ptr<GlooMesh> mesh(new GlooMesh(clock));
  mesh->groups_ = std::move(groups);
  // Gloo waits for five times its timeout when it connects.
  auto timeout = std::clamp<std::chrono::milliseconds>(
      std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock->Now()) / 5,
      std::chrono::milliseconds(1), std::chrono::hours(1));
  try {
    for (auto& group : mesh->groups_) {
      group->context = device->createContext(group->group.rank, group->group.size());
      group->context->setTimeout(timeout);
      for (int place = 0; place < group->group.size(); ++place) {
        if (place != group->group.rank) group->context->createPair(place);
      }
      group->MakeLanes();
    }
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("Gloo on ", listener.endpoint, ": ", error.what()));
  }
  RETURN_IF_ERROR(mesh->Exchange(listener, peers, deadline));
  RETURN_IF_ERROR(mesh->ConnectPairs(deadline));
  mesh->wake_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!mesh->wake_.valid()) return ErrnoStatus(errno, "eventfd");
  mesh->watcher_ = std::thread([mesh = mesh.get()] { mesh->Watch(); });
  return mesh;
}

GlooMesh::~GlooMesh() {
  if (watcher_.joinable()) StopWatching();
  // Pairs go before the buffers that Gloo's thread fills through them.
  for (auto& group : groups_) {
    for (int place = 0; group->context != nullptr && place < group->group.size(); ++place) {
      group->context->getPair(place).reset();
    }
  }
}

void GlooMesh::StopWatching() {
  bool failed = false;
  for (const auto& group : groups_) failed = failed || !group->error.Get().ok();
  if (!failed) {
    std::unique_lock<std::mutex> lock(mu_);
    for (auto& link : links_) {
      if (!link->closed) link->socket.Send(kGoodbye, clock_->Now(), clock_).IgnoreError();
    }
    changed_.wait_for(lock, kGoodbyeWait, [this] {
      return std::all_of(links_.begin(), links_.end(),
                         [](const auto& link) { return link->goodbye || link->closed; });
    });
  }
  uint64_t one = 1;
  while (write(wake_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
  watcher_.join();
}

// What `to` must know of this rank: the groups both are in and the pairs made for it there.
std::string GlooMesh::Hello(const CommunicatorFactory::Peers& peers, int to) const {
  std::string hello = absl::StrCat(kProtocol, "\n", peers.session, "\n", peers.rank);
  for (const auto& group : groups_) {
    for (int place = 0; place < group->group.size(); ++place) {
      if (group->group.ranks[place] != to) continue;
      std::vector<char> address = group->context->getPair(place)->address().bytes();
      absl::StrAppend(&hello, "\n", group->description, "\n",
                      absl::BytesToHexString(absl::string_view(address.data(), address.size())));
    }
  }
  return hello;
}

absl::Status GlooMesh::TakeHello(const CommunicatorFactory::Peers& peers, int from,
                                 const std::string& hello) {
  std::vector<std::string> lines = absl::StrSplit(hello, '\n');
  if (lines.size() < 3 || lines[0] != kProtocol || lines[1] != peers.session ||
      lines[2] != absl::StrCat(from)) {
    return absl::UnavailableError(
        absl::StrCat("rank ", from, " answers as somebody else or for another epoch"));
  }
  size_t line = 3;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g]->group;
    for (int place = 0; place < group.size(); ++place) {
      if (group.ranks[place] != from) continue;
      if (line + 1 >= lines.size() || lines[line] != groups_[g]->description) {
        return absl::InvalidArgumentError(absl::StrCat(
            "rank ", peers.rank, " has group ", groups_[g]->description, "; rank ", from, " has ",
            line < lines.size() ? lines[line] : "no further group with it"));
      }
      std::string bytes = absl::HexStringToBytes(lines[line + 1]);
      addresses_[g][place].assign(bytes.begin(), bytes.end());
      line += 2;
    }
  }
  if (line != lines.size()) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", from, " has group ", lines[line],
                                                   ", which rank ", peers.rank, " does not have"));
  }
  return absl::OkStatus();
}

// Of each two ranks that share a group the higher dials the lower; both say hello. All dial before
// anybody waits for an answer.
absl::Status GlooMesh::Exchange(const TcpListener& listener,
                                const CommunicatorFactory::Peers& peers, TimePoint deadline) {
  std::set<int> ranks;
  for (const auto& group : groups_) {
    addresses_.emplace_back(group->group.size());
    for (int rank : group->group.ranks) {
      if (rank != peers.rank) ranks.insert(rank);
    }
  }
  for (int rank : ranks) {
    links_.push_back(std::make_unique<Link>());
    links_.back()->rank = rank;
  }
  for (auto& link : links_) {
    if (link->rank > peers.rank) continue;
    std::string context = absl::StrCat("connecting with rank ", link->rank);
    absl::string_view endpoint = peers.rendezvous[link->rank];
    if (!absl::ConsumePrefix(&endpoint, "tcp:")) {
      return absl::InvalidArgumentError(
          absl::StrCat(context, ": no TCP endpoint: ", peers.rendezvous[link->rank]));
    }
    absl::StatusOr<UniqueFd> socket = DialTcp(std::string(endpoint), deadline, clock_);
    if (!socket.ok()) return Annotate(socket.status(), context);
    link->socket = FrameSocket(*std::move(socket));
    RETURN_IF_ERROR(
        Annotate(link->socket.Send(Hello(peers, link->rank), deadline, clock_), context));
  }
  RETURN_IF_ERROR(AcceptHigher(listener, peers, deadline));
  for (auto& link : links_) {
    if (link->rank > peers.rank) continue;
    std::string context = absl::StrCat("connecting with rank ", link->rank);
    absl::StatusOr<std::string> hello = link->socket.Receive(deadline, clock_);
    if (!hello.ok()) return Annotate(hello.status(), context);
    RETURN_IF_ERROR(TakeHello(peers, link->rank, *hello));
  }
  return absl::OkStatus();
}

absl::Status GlooMesh::AcceptHigher(const TcpListener& listener,
                                    const CommunicatorFactory::Peers& peers, TimePoint deadline) {
  std::vector<FrameSocket> strangers;  // connected, hello not yet read
  while (true) {
    std::vector<int> missing;
    for (const auto& link : links_) {
      if (!link->socket.valid()) missing.push_back(link->rank);
    }
    if (missing.empty()) return absl::OkStatus();
    std::vector<pollfd> polled = {{listener.fd.get(), POLLIN, 0}};
    for (const FrameSocket& stranger : strangers) polled.push_back({stranger.fd(), POLLIN, 0});
    Duration left = deadline - clock_->Now();
    if (left <= Duration::zero()) {
      return absl::DeadlineExceededError(
          absl::StrCat("connecting: rank", missing.size() == 1 ? " " : "s ",
                       absl::StrJoin(missing, ", "), " did not come in time"));
    }
    auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(
        std::min<Duration>(left, std::chrono::seconds(1)));
    poll(polled.data(), polled.size(), static_cast<int>(milliseconds.count()));
    ASSIGN_OR_RETURN(UniqueFd accepted, AcceptTcp(listener.fd.get()));
    if (accepted.valid()) strangers.emplace_back(std::move(accepted));
    for (FrameSocket& stranger : strangers) {
      absl::StatusOr<std::optional<std::string>> hello = stranger.Poll();
      if (hello.ok() && !hello->has_value()) continue;
      FrameSocket socket = std::move(stranger);
      stranger = FrameSocket();
      if (!hello.ok()) continue;
      std::vector<std::string> lines = absl::StrSplit(**hello, absl::MaxSplits('\n', 3));
      int from = -1;
      if (lines.size() < 3 || lines[0] != kProtocol || lines[1] != peers.session ||
          !absl::SimpleAtoi(lines[2], &from)) {
        continue;  // not of this epoch
      }
      for (auto& link : links_) {
        if (link->rank != from || link->socket.valid()) continue;
        // Answered first, so that the other side can name a difference too.
        RETURN_IF_ERROR(Annotate(socket.Send(Hello(peers, from), deadline, clock_),
                                 absl::StrCat("connecting with rank ", from)));
        link->socket = std::move(socket);
        RETURN_IF_ERROR(TakeHello(peers, from, **hello));
        break;
      }
    }
    std::erase_if(strangers, [](const FrameSocket& socket) { return !socket.valid(); });
  }
}

// In the order of (group, place) on all ranks: each waits for at most one other, and never in a
// circle.
absl::Status GlooMesh::ConnectPairs(TimePoint deadline) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g]->group;
    for (int place = 0; place < group.size(); ++place) {
      if (place == group.rank) continue;
      try {
        groups_[g]->context->getPair(place)->connect(addresses_[g][place]);
      } catch (const std::exception& error) {
        std::string text = absl::StrCat("connecting group ", group.name, ": ", group.Name(place),
                                        ": ", error.what());
        return clock_->Now() >= deadline ? absl::DeadlineExceededError(text)
                                         : absl::UnavailableError(text);
      }
    }
  }
  return absl::OkStatus();
}

void GlooMesh::Notify(const GlooGroup& group, const absl::Status& error) {
  std::string message = absl::StrCat("fail\n", group.description, "\n",
                                     static_cast<int>(error.code()), "\n", error.message());
  std::lock_guard<std::mutex> lock(mu_);
  for (auto& link : links_) {
    // A full socket means a peer that reads nothing: it would not read this either.
    if (!link->closed && group.Holds(link->rank)) {
      link->socket.Send(message, clock_->Now(), clock_).IgnoreError();
    }
  }
}

absl::Status GlooMesh::ReasonOfLoss(GlooGroup* group, int place, absl::string_view detail) {
  {
    std::unique_lock<std::mutex> lock(mu_);
    changed_.wait_for(lock, kNoticeWait, [group] { return !group->error.Get().ok(); });
  }
  if (absl::Status known = group->error.Get(); !known.ok()) return known;
  return absl::UnavailableError(absl::StrCat("group ", group->group.name, ": ",
                                             group->group.Name(place), " is gone (", detail, ")"));
}

void GlooMesh::Watch() {
  while (true) {
    std::vector<pollfd> polled = {{wake_.get(), POLLIN, 0}};
    std::vector<Link*> watched;
    for (auto& link : links_) {
      if (link->closed) continue;  // only this thread sets it
      polled.push_back({link->socket.fd(), POLLIN, 0});
      watched.push_back(link.get());
    }
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    if (polled[0].revents != 0) return;
    for (size_t i = 0; i < watched.size(); ++i) {
      if (polled[i + 1].revents != 0) Handle(watched[i]);
    }
  }
}

void GlooMesh::Handle(Link* link) {
  while (true) {
    absl::StatusOr<std::optional<std::string>> message = link->socket.Poll();
    if (message.ok() && !message->has_value()) return;
    if (message.ok()) {
      HandleMessage(link, **message);
      continue;
    }
    std::lock_guard<std::mutex> lock(mu_);
    link->closed = true;
    for (auto& group : groups_) {
      if (link->goodbye || !group->Holds(link->rank)) continue;
      group->Interrupt(absl::UnavailableError(
          absl::StrCat("group ", group->group.name, ": rank ", link->rank, " is gone")));
    }
    changed_.notify_all();
    return;
  }
}

void GlooMesh::HandleMessage(Link* link, const std::string& message) {
  std::lock_guard<std::mutex> lock(mu_);
  std::vector<std::string> fields = absl::StrSplit(message, absl::MaxSplits('\n', 3));
  int code = 0;
  if (message == kGoodbye) {
    link->goodbye = true;
  } else if (fields.size() == 4 && fields[0] == "fail" && absl::SimpleAtoi(fields[2], &code)) {
    for (auto& group : groups_) {
      if (group->description != fields[1] || !group->Holds(link->rank)) continue;
      group->Interrupt(absl::Status(static_cast<absl::StatusCode>(code), fields[3]));
    }
  }
  changed_.notify_all();
}

}  // namespace whalepod
