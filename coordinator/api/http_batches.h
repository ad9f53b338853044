// OpenAI's files and batches over HTTP, as views of the job store.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/api/job_api.h"

namespace whalepod {

struct BatchCall {
  std::string method;  // "GET"
  std::string target;  // path and query
  std::string content_type, idempotency_key, body;
  bool chunks = true;  // the answer may come without its length
};

struct BatchReply {
  // The body's next piece; empty: that was all. Waits for the disk.
  using More = std::function<absl::StatusOr<std::string>()>;

  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  More more;                     // what follows `body`, of a file that is long; null: nothing
  std::optional<int64_t> bytes;  // the whole body's, if `more` is set and it is known
};

// path: without query.
bool IsBatchPath(absl::string_view path);
// Whether a whole file is read and stored anew, which may take seconds.
bool MakesBatch(absl::string_view method, absl::string_view target);
// Whether the body has a file, and may have more than kMostBody bytes.
bool IsFileUpload(absl::string_view method, absl::string_view target);

// What is answered to a call in the name of `tenant`; waits for the disk. A batch is a job, under
// the job's id; of one that has ended, file-out-ID has the answers and file-err-ID the rest.
absl::StatusOr<BatchReply> AnswerBatch(JobApi& jobs, const std::string& tenant,
                                       const BatchCall& call);

}  // namespace whalepod
