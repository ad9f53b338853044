// One rank as a process, told what to do line by line on stdin; answers each line with one on
// stdout. process_test.cc drives it.
//   comm_rank shared_memory|gloo|auto RANK ADDRESS        -> rendezvous, in hex
//   connect SESSION MILLISECONDS HOSTS RENDEZVOUS         -> status   (by rank, commas between)
//   random SEED OPERATIONS MAX_BYTES                      -> status
//   barrier MILLISECONDS                                  -> status
//   abort REASON                                          -> status
#include <iostream>
#include <sstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_split.h"
#include "tests/worker/comm/comm_harness.h"
#include "worker/comm/select.h"

namespace whalepod {
namespace {

constexpr int64_t kMaxBytes = 50000;

class RankProcess {
 public:
  RankProcess(const std::string& kind, int rank, const std::string& address) : rank_(rank) {
    AutoOptions options;
    options.gloo.address = address;
    options.gloo.max_piece_bytes = 8192;
    options.shared_memory.max_outbox_bytes = 8192;
    if (kind == "shared_memory") {
      factory_ = MakeSharedMemoryFactory(options.shared_memory);
    } else if (kind == "gloo") {
      factory_ = MakeGlooFactory(options.gloo);
    } else {
      factory_ = MakeAutoCommunicatorFactory(options);
    }
  }

  std::string Rendezvous() {
    absl::StatusOr<std::string> blob = factory_->Rendezvous();
    return blob.ok() ? absl::BytesToHexString(*blob) : blob.status().ToString();
  }

  absl::Status Do(const std::string& line) {
    std::istringstream in(line);
    std::string verb;
    in >> verb;
    if (verb == "connect") {
      CommunicatorFactory::Peers peers;
      std::string hosts;
      std::string blobs;
      int milliseconds = 0;
      in >> peers.session >> milliseconds >> hosts >> blobs;
      peers.rank = rank_;
      peers.hosts = absl::StrSplit(hosts, ',');
      for (absl::string_view blob : absl::StrSplit(blobs, ',')) {
        peers.rendezvous.push_back(absl::HexStringToBytes(blob));
      }
      auto group = WorldGroup(static_cast<int>(peers.hosts.size()), kMaxBytes);
      auto made = factory_->Connect(peers, {group}, After(std::chrono::milliseconds(milliseconds)));
      if (made.ok()) communicators_ = *std::move(made);
      return made.status();
    }
    if (communicators_.empty()) return absl::FailedPreconditionError("not connected");
    if (verb == "random") {
      uint64_t seed = 0;
      int operations = 0;
      int64_t most = 0;
      in >> seed >> operations >> most;
      return RandomOperations(communicators_[0].get(), seed, operations, most,
                              After(std::chrono::seconds(100)));
    }
    if (verb == "barrier") {
      int milliseconds = 0;
      in >> milliseconds;
      return communicators_[0]->Barrier(After(std::chrono::milliseconds(milliseconds)));
    }
    if (verb == "abort") {
      communicators_[0]->Abort(line.substr(verb.size() + 1));
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(line);
  }

 private:
  const int rank_;
  std::unique_ptr<CommunicatorFactory> factory_;
  Communicators communicators_;
};

}  // namespace
}  // namespace whalepod

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  whalepod::RankProcess process(argv[1], std::stoi(argv[2]), argv[3]);
  std::cout << process.Rendezvous() << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << process.Do(line).ToString() << std::endl;
  }
  return 0;
}
