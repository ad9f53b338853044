// All resumable generations: begins them, finds them again, and keeps their journal.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "coordinator/api/frontend.h"
#include "coordinator/api/resumable_stream.h"
#include "coordinator/api/work_pool.h"
#include "coordinator/streams/stream_store.h"
#include "whalepod/v1/inference.pb.h"

namespace whalepod {

// Thread-safe. A stream is in memory while it is generated or its end is not on disk, and while a
// reader holds it. What a reader is told may not be on disk yet: after kill -9 the next coordinator
// generates it again, and gets the same.
class ResumableStreams {
 public:
  struct Options {
    Duration window =
        std::chrono::minutes(10);  // without a reader; then it is cancelled, forgotten
    Duration flush = std::chrono::milliseconds(50);  // so much may be missing on disk
    Duration stall = kReaderStall;
    std::function<int64_t()> now_ms;  // the store's
  };

  // `frontend` and `store` outlive this; without a store every call ends with FAILED_PRECONDITION.
  ResumableStreams(Frontend* frontend, StreamStore* store, const Options& options);
  // Runs what waits, and writes down what there is.
  ~ResumableStreams();

  // Runs `work`, which calls what is below, on a thread for it; RESOURCE_EXHAUSTED if too many
  // wait.
  absl::Status Run(std::function<void()> work);

  // Those below wait for the disk, and encode text.

  // A new one. Errors as Frontend::Generate's; INVALID_ARGUMENT for what cannot be resumed,
  // ALREADY_EXISTS for a request id in use, RESOURCE_EXHAUSTED (TOO_MANY_RESUMABLE) if the caller
  // has as many as are kept. `record`: of the request, since its arrival.
  absl::StatusOr<std::shared_ptr<ResumableStream>> Begin(v1::GenerateRequest request,
                                                         const std::string& caller,
                                                         RequestRecord record);
  // NOT_FOUND: there is none; FAILED_PRECONDITION: it was begun with another model.
  absl::StatusOr<std::shared_ptr<ResumableStream>> Resume(const std::string& request_id,
                                                          const std::string& caller);
  // Ends it. One that has ended stays as it is.
  absl::Status Cancel(const std::string& request_id, const std::string& caller);

 private:
  struct Active {
    int64_t key = 0;
    uint32_t saved = 0;  // events in the journal
    std::shared_ptr<ResumableStream> stream;
  };
  // An answer that has ended and is read again.
  struct Restored {
    int64_t key = 0;
    std::weak_ptr<ResumableStream> stream;
  };

  // Takes the record once it is the generation's.
  absl::StatusOr<std::shared_ptr<ResumableStream>> Start(v1::GenerateRequest request,
                                                         const std::string& caller,
                                                         std::optional<RequestRecord>* record);
  std::shared_ptr<ResumableStream> Find(const StreamId& id) const;
  void Generate(Frontend::Admitted admitted, RequestRecord record, const StreamId& id,
                const std::shared_ptr<ResumableStream>& stream);
  absl::StatusOr<std::shared_ptr<ResumableStream>> Revive(const StreamId& id, StoredStream stored);
  std::shared_ptr<ResumableStream> Restore(const StreamId& id, StoredStream stored);
  void Loop();
  absl::Status Save();
  // Those of these keys are saved up to so many events; forgets those that are over with it.
  void NoteSaved(const std::map<int64_t, uint32_t>& saved, const std::set<int64_t>& over);
  // Cancels and forgets what nobody reads, and looks after readers; returns the keys of the rest.
  std::set<int64_t> Sweep();

  Frontend* const frontend_;
  StreamStore* const store_;
  const Options options_;

  std::mutex begin_mu_;  // one stream at a time is begun, revived or restored; before mu_
  mutable std::mutex mu_;
  std::condition_variable wake_;
  bool stopping_ = false;
  absl::Status failing_;  // how the last write of the journal failed
  std::map<StreamId, Active> active_;
  std::map<StreamId, Restored> restored_;
  std::thread thread_;
  WorkPool pool_;  // last: its tasks use the rest
};

}  // namespace whalepod
