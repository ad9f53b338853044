// Jobs, their items and their files on disk: what has been accepted survives kill -9 and power
// loss.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/storage/database.h"
#include "whalepod/v1/jobs.pb.h"

namespace whalepod {

// What an item's request is written in.
enum class RequestKind { kGenerate = 0, kChat = 1, kCompletion = 2 };

struct NewItem {
  uint32_t line = 0;  // 0: of no text
  std::string custom_id;
  RequestKind kind = RequestKind::kGenerate;
  std::string request;                  // a GenerateRequest's bytes, or a JSON body
  std::optional<v1::JobAnswer> failed;  // is no request: how it has ended already
};

struct NewJob {
  std::string tenant;           // whose it is
  std::string idempotency_key;  // empty: none
  std::string hash;             // of all that the caller sent
  int32_t priority = 100;
  int64_t expires_after_ms = 0;
  std::string endpoint, input_file_id;
  google::protobuf::Map<std::string, std::string> metadata;
  std::vector<NewItem> items;  // at least one
};

// A job that has items without an answer. `key` is the store's own number of it, rising.
struct ActiveJob {
  int64_t key = 0;
  int32_t priority = 0;
};

struct PendingItem {
  int64_t job = 0;  // ActiveJob's key
  uint32_t index = 0;
  std::string job_id, tenant;
  int32_t priority = 0;
  RequestKind kind = RequestKind::kGenerate;
  std::string request;
};

struct EndedItem {
  int64_t job = 0;
  uint32_t index = 0;
  v1::JobAnswer answer;  // status code 200: it succeeded
};

// Bytes of a file that lie, and are read, together.
inline constexpr int64_t kFilePart = 2 << 20;

struct JobFile {
  std::string id, name, purpose;
  int64_t created_ms = 0, bytes = 0;
  int64_t expires_ms = 0;  // 0: it is kept
};

// Thread-safe. Calls wait for the disk. Errors of all: as Database's; NOT_FOUND for what another
// tenant owns. After an error of the disk itself nothing more is written until the next start.
class JobStore {
 public:
  struct Options {
    std::string path;
    std::function<int64_t()> now_ms;  // of the wall clock, since 1970
    int64_t retention_ms = 0;         // how long jobs are kept after their end; 0: for good
    int64_t most_pages = 0;           // of 4 KiB; 0: what the disk holds. For tests.
  };
  // Makes the file where it is missing, and checks it where it is there. FAILED_PRECONDITION also
  // for a file of another program or of another version of this one.
  static absl::StatusOr<std::unique_ptr<JobStore>> Open(const Options& options);

  // The job, which is on disk; or the one there is by this idempotency key. ALREADY_EXISTS if that
  // one's hash differs.
  absl::StatusOr<v1::Job> Submit(const NewJob& job);
  absl::StatusOr<v1::Job> Get(const std::string& tenant, const std::string& id);
  // INVALID_ARGUMENT for a token that no page had.
  absl::StatusOr<v1::ListJobsResponse> List(const std::string& tenant, uint32_t page_size,
                                            const std::string& page_token);
  // The token of the page that begins after a job.
  absl::StatusOr<std::string> TokenAfter(const std::string& tenant, const std::string& id);
  absl::StatusOr<v1::GetJobResultsResponse> Results(const std::string& tenant,
                                                    const std::string& id, uint32_t page_size,
                                                    const std::string& page_token);
  // The job, and of the items that have ended those from number `from` on, at most `most`.
  absl::StatusOr<v1::WatchJobResponse> Watch(const std::string& tenant, const std::string& id,
                                             uint32_t from, uint32_t most);
  // One item, ended or not. OUT_OF_RANGE: the job has fewer.
  absl::StatusOr<v1::JobItem> Item(const std::string& tenant, const std::string& id,
                                   uint32_t index);
  // The job as it is then; one that has ended stays.
  absl::StatusOr<v1::Job> Cancel(const std::string& tenant, const std::string& id);

  // For the runner: jobs that have not ended, those first whose turn it is.
  absl::StatusOr<std::vector<ActiveJob>> Active();
  // The first items from `from` on that have not ended.
  absl::StatusOr<std::vector<PendingItem>> Pending(int64_t job, uint32_t from, uint32_t most);
  absl::Status MarkStarted(int64_t job);
  // In one transaction; those that have ended already stay as they are.
  absl::Status Finish(const std::vector<EndedItem>& items);
  // Ends the jobs whose time is over.
  absl::Status Expire();
  // Drops jobs that are kept no longer, those that ended first; what takes long is left for later.
  // Returns how many.
  absl::StatusOr<int> Drop();
  // When Drop() takes `job`, which has ended; 0: never.
  int64_t DropsAtMs(const v1::Job& job) const;
  // The job that Submit would return without making one: that of the idempotency key, if it has
  // one and there is one. ALREADY_EXISTS as Submit.
  absl::StatusOr<std::optional<v1::Job>> FindSubmitted(const NewJob& job);

  absl::StatusOr<JobFile> AddFile(const std::string& tenant, const std::string& name,
                                  const std::string& purpose, absl::string_view content);
  absl::StatusOr<JobFile> GetFile(const std::string& tenant, const std::string& id);
  // `most` bytes of its content, fewer at its end, from `from` on: a multiple of kFilePart.
  absl::StatusOr<std::string> ReadFile(const std::string& tenant, const std::string& id,
                                       int64_t from, int64_t most);
  // The newest first.
  absl::StatusOr<std::vector<JobFile>> ListFiles(const std::string& tenant);
  absl::Status DeleteFile(const std::string& tenant, const std::string& id);

  // Calls `changed` with the id of each job that changes, from the thread that changed it: it must
  // not block, nor call this. Returns a number to remove it by, after which it is not called.
  using Listener = std::function<void(const std::string& id)>;
  int AddListener(Listener changed);
  void RemoveListener(int number);

 private:
  struct Row {
    int64_t key = 0;
    v1::Job job;
    std::string hash;
    uint32_t ended = 0;  // items
  };

  explicit JobStore(const Options& options) : options_(options) {}
  // All below: with mu_ held.
  static Row ReadRow(const Database::Query& query);
  static v1::JobItem ReadItem(const Database::Query& query);
  absl::StatusOr<Row> Find(const std::string& tenant, const std::string& id);
  absl::StatusOr<std::optional<v1::Job>> FindByKey(const NewJob& job);
  absl::StatusOr<Row> Insert(const NewJob& job);
  absl::Status InsertItem(int64_t job, uint32_t index, const NewItem& item, uint32_t ended);
  // Ends all pending items; returns the job's id.
  absl::Status EndJob(int64_t key, v1::JobState state);
  absl::StatusOr<bool> FinishOne(const EndedItem& item);
  // The job that ended first, if it is kept no longer, with all that belongs to it: its number of
  // items, 0 if there is none.
  absl::StatusOr<int64_t> DropOldest();
  absl::Status Write(const std::function<absl::Status()>& work);

  void Tell(const std::vector<std::string>& ids);

  const Options options_;
  std::mutex mu_;
  std::unique_ptr<Database> database_;
  absl::Status broken_;  // the disk failed

  std::mutex listeners_mu_;
  std::map<int, Listener> listeners_;
  int next_listener_ = 0;
};

// "job-" or "file-" and random digits.
std::string NewId(const std::string& prefix);
bool IsOver(v1::JobState state);

}  // namespace whalepod
