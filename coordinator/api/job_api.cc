#include "coordinator/api/job_api.h"

#include <malloc.h>

#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/validate.h"
#include "proto/plan/hash.h"

namespace whalepod {
namespace {

constexpr int kThreads = 2;
constexpr int kMostWaiting = 256;
constexpr size_t kMostLongWaiting = 64;
constexpr size_t kTransferRoom = 2 * kMostUpload + (64 << 20);
constexpr size_t kTransferRoomOfOne = kMostUpload + (32 << 20);
constexpr size_t kMostKey = 256;
constexpr int32_t kDefaultPriority = 100;
constexpr uint32_t kDay = 86400, kLongestLife = 30 * kDay;
// OpenAI's limits.
constexpr int kMostMetadata = 16;
constexpr size_t kMostMetadataKey = 64, kMostMetadataValue = 512;

// Equal for equal messages: maps are in order.
std::string HashOf(const v1::SubmitJobRequest& request, const BatchOrigin& origin) {
  std::string text = Deterministic(request);
  absl::StrAppend(&text, origin.endpoint, "\n", origin.input_file_id);
  return Sha256(text);
}

absl::Status Check(const v1::SubmitJobRequest& request) {
  if (request.idempotency_key().size() > kMostKey) {
    return BadField("idempotency_key", "TOO_LONG", request.idempotency_key(),
                    absl::StrCat("at most ", kMostKey, " bytes"));
  }
  RETURN_IF_ERROR(CheckPriority(request.priority()));
  if (request.expires_after_seconds() > kLongestLife) {
    return BadField("expires_after_seconds", "OUT_OF_RANGE",
                    absl::StrCat(request.expires_after_seconds()),
                    absl::StrCat("at most ", kLongestLife));
  }
  if (request.metadata_size() > kMostMetadata) {
    return BadField("metadata", "TOO_LONG", absl::StrCat(request.metadata_size(), " entries"),
                    absl::StrCat("at most ", kMostMetadata));
  }
  for (const auto& [key, value] : request.metadata()) {
    if (key.size() > kMostMetadataKey || value.size() > kMostMetadataValue) {
      return BadField("metadata", "TOO_LONG", key,
                      absl::StrCat("names of at most ", kMostMetadataKey, " and values of at most ",
                                   kMostMetadataValue, " bytes"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

JobApi::JobApi(JobStore* store, JobBackend* backend, CheckFn check)
    : store_(store),
      backend_(backend),
      check_(std::move(check)),
      transfers_(kTransferRoom, kTransferRoomOfOne),
      pool_(kThreads, std::numeric_limits<size_t>::max()),
      long_pool_(/*threads=*/1, kMostLongWaiting) {}

absl::StatusOr<JobStore*> JobApi::store() const {
  if (store_ != nullptr) return store_;
  return absl::FailedPreconditionError(
      "this deployment keeps no jobs: start the server with --jobs-db FILE or --state-dir FOLDER");
}

absl::StatusOr<v1::Job> JobApi::Submit(const std::string& tenant,
                                       const v1::SubmitJobRequest& request,
                                       const BatchOrigin& origin) {
  absl::StatusOr<v1::Job> made = Make(tenant, request, origin);
  // The items of a long text were small pieces of memory, which malloc would keep for this thread.
  if (request.jsonl().size() > kMostBody) malloc_trim(0);
  return made;
}

absl::StatusOr<v1::Job> JobApi::Make(const std::string& tenant, const v1::SubmitJobRequest& request,
                                     const BatchOrigin& origin) {
  ASSIGN_OR_RETURN(JobStore* const store, this->store());
  RETURN_IF_ERROR(Check(request));
  NewJob job;
  job.tenant = tenant;
  job.idempotency_key = request.idempotency_key();
  job.hash = HashOf(request, origin);
  job.priority = request.has_priority() ? request.priority() : kDefaultPriority;
  const uint32_t life = request.expires_after_seconds();
  job.expires_after_ms = int64_t{life == 0 ? kDay : life} * 1000;
  job.endpoint = origin.endpoint;
  job.input_file_id = origin.input_file_id;
  job.metadata = request.metadata();
  switch (request.work_case()) {
    case v1::SubmitJobRequest::kGenerate: {
      if (request.generate().resumable()) {
        return BadField("generate.resumable", "CONTRADICTION", "true",
                        "false in a job, which survives restarts anyway");
      }
      if (absl::Status wrong = check_(request.generate()); !wrong.ok()) {
        // It may have been taken before that was known.
        ASSIGN_OR_RETURN(const std::optional<v1::Job> earlier, store->FindSubmitted(job));
        if (earlier) return *earlier;
        return wrong;
      }
      NewItem item;
      item.custom_id = request.generate().request_id();
      item.request = request.generate().SerializeAsString();
      job.items.push_back(std::move(item));
      break;
    }
    case v1::SubmitJobRequest::kJsonl: {
      ASSIGN_OR_RETURN(job.items, ParseBatch(request.jsonl(), origin.endpoint));
      break;
    }
    case v1::SubmitJobRequest::WORK_NOT_SET:
      return BadField("work", "MISSING", "not set", "generate or jsonl");
  }
  return store->Submit(job);
}

absl::StatusOr<std::shared_ptr<ResumableStream>> JobApi::WatchItem(
    const std::string& tenant, const v1::WatchJobItemRequest& request) {
  RETURN_IF_ERROR(store().status());
  return backend_->Watch(tenant, {request.id(), request.index()});
}

absl::Status JobApi::Run(std::function<void()> work) {
  if (++waiting_ > kMostWaiting) {
    --waiting_;
    return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                              "more than ", kMostWaiting, " calls wait for the job store")),
                          "QUEUE_FULL", kRetryMs);
  }
  RunAlways([this, work = std::move(work)] {
    --waiting_;
    work();
  });
  return absl::OkStatus();
}

absl::Status JobApi::RunLong(std::function<void()> work) {
  if (long_pool_.Run(std::move(work))) return absl::OkStatus();
  return WithRetryDelay(absl::ResourceExhaustedError(absl::StrCat(
                            "more than ", kMostLongWaiting, " jobs and files wait to be stored")),
                        "QUEUE_FULL", kRetryMs);
}

void JobApi::RunAlways(std::function<void()> work) { CHECK(pool_.Run(std::move(work))); }

}  // namespace whalepod
