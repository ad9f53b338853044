// Resumable generations on disk: what was asked for, and what has been answered by now.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/storage/database.h"
#include "whalepod/v1/inference.pb.h"
#include "whalepod/v1/journal.pb.h"

namespace whalepod {

// Request ids are a tenant's own.
struct StreamId {
  std::string tenant, id;
  auto operator<=>(const StreamId&) const = default;
};

struct StoredStream {
  int64_t key = 0;              // the store's own number of it
  v1::GenerateRequest request;  // so that the answer depends on nothing else: seed and sampling set
  std::string model;            // what it was asked of, see ServedModel::identity
  v1::JournalEvents events;     // the first of the answer's
  std::optional<v1::JournalEnd> end;  // once it has ended; events are all there are then
};

// What is to be added to a stream; whoever adds cares for it.
struct StreamAddition {
  int64_t key = 0;
  uint32_t first = 0;  // number of the first of these events, from 0
  v1::JournalEvents events;
  std::optional<v1::JournalEnd> end;
};

// Thread-safe. Calls wait for the disk. Errors of all: as Database's.
class StreamStore {
 public:
  struct Options {
    std::string path;
    std::function<int64_t()> now_ms;  // of the wall clock, since 1970
    int64_t most_pages = 0;           // as OpenStore's
    int64_t most_streams = 0;         // of one tenant at once; 0: no limit
  };
  // Also as OpenStore's. The streams found there count as just cared for: nobody could ask for
  // them.
  static absl::StatusOr<std::unique_ptr<StreamStore>> Open(const Options& options);

  // Its key; it is on disk then. ALREADY_EXISTS if there is one of this id, OUT_OF_RANGE if the
  // tenant has as many as it may.
  absl::StatusOr<int64_t> Add(const StreamId& id, const v1::GenerateRequest& request,
                              const std::string& model);
  // All or none.
  absl::Status Append(const std::vector<StreamAddition>& additions);
  // NOT_FOUND: there is none. Who reads cares for it; where that cannot be written it is read all
  // the same.
  absl::StatusOr<StoredStream> Read(const StreamId& id);
  absl::Status Remove(int64_t key);
  // Removes those that nobody has cared for since a time, but those of `spared`.
  absl::Status Expire(int64_t before_ms, const std::set<int64_t>& spared);

 private:
  explicit StreamStore(const Options& options) : options_(options) {}
  absl::Status CheckRoom(const std::string& tenant);
  absl::Status AppendOne(const StreamAddition& addition);
  absl::Status RemoveOne(int64_t key);

  const Options options_;
  std::mutex mu_;
  std::unique_ptr<Database> database_;
};

}  // namespace whalepod
