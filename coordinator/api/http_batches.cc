#include "coordinator/api/http_batches.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/compact_json.h"
#include "base/status.h"
#include "coordinator/api/batch_format.h"
#include "coordinator/api/errors.h"
#include "coordinator/api/limits.h"
#include "coordinator/api/multipart.h"
#include "coordinator/api/openai_response.h"
#include "coordinator/checkpoint/json.h"
#include "coordinator/text/utf8.h"

namespace whalepod {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFiles[] = "/v1/files", kBatches[] = "/v1/batches";
constexpr char kOutput[] = "file-out-", kErrors[] = "file-err-";
constexpr size_t kMostFilename = 256;
constexpr uint32_t kBatchPage = 20, kMostBatchPage = 100, kFilePage = 10'000;

bool IsPostTo(absl::string_view root, absl::string_view method, absl::string_view target) {
  absl::string_view path = target.substr(0, target.find('?'));
  while (absl::ConsumeSuffix(&path, "/")) {
  }
  return method == "POST" && path == root;
}

BatchReply Reply(const Json& json) { return {.body = CompactJson(json)}; }

// One call, taken apart.
struct Call {
  JobApi& jobs;
  JobStore& store;
  const std::string& tenant;
  const BatchCall& http;
  std::map<std::string, std::string> query;

  std::string Query(const std::string& key) const {
    const auto it = query.find(key);
    return it == query.end() ? "" : it->second;
  }
  absl::StatusOr<uint32_t> Limit(uint32_t missing, uint32_t most) const {
    const std::string text = Query("limit");
    uint32_t limit = missing;
    if (text.empty()) return limit;
    if (absl::SimpleAtoi(text, &limit) && limit >= 1 && limit <= most) return limit;
    return BadField("limit", "OUT_OF_RANGE", text, absl::StrCat("in [1, ", most, "]"));
  }
};

absl::StatusOr<BatchReply> WrongMethod(const Call& call) {
  const absl::Status status = absl::InvalidArgumentError(
      absl::StrCat(call.http.target, " does not take ", call.http.method));
  return BatchReply{.status = 405, .body = ToHttpError(status).body};
}

Json Seconds(int64_t ms) { return ms == 0 ? Json() : Json(ms / 1000); }

Json FileJson(const JobFile& file) {
  return {{"id", file.id},
          {"object", "file"},
          {"bytes", file.bytes},
          {"created_at", file.created_ms / 1000},
          {"expires_at", Seconds(file.expires_ms)},
          {"filename", file.name},
          {"purpose", file.purpose},
          {"status", "processed"},
          {"status_details", nullptr}};
}

const char* StatusOf(v1::JobState state) {
  switch (state) {
    case v1::JOB_STATE_COMPLETED:
      return "completed";
    case v1::JOB_STATE_CANCELLED:
      return "cancelled";
    case v1::JOB_STATE_EXPIRED:
      return "expired";
    default:
      return "in_progress";
  }
}

Json BatchJson(const v1::Job& job) {
  const bool over = IsOver(job.state());
  const v1::JobCounts& counts = job.counts();
  const auto ended = [&job](v1::JobState state) {
    return Seconds(job.state() == state ? job.ended_ms() : 0);
  };
  Json metadata = Json::object();
  const std::map<std::string, std::string> sorted(job.metadata().begin(), job.metadata().end());
  for (const auto& [key, value] : sorted) metadata[key] = value;
  const v1::Usage& usage = job.usage();
  const bool wrong = counts.failed() + counts.cancelled() + counts.expired() > 0;
  return {
      {"id", job.id()},
      {"object", "batch"},
      {"endpoint", job.endpoint()},
      {"errors", nullptr},
      {"input_file_id", job.input_file_id()},
      {"completion_window", absl::StrCat((job.expires_ms() - job.created_ms()) / 3600'000, "h")},
      {"status", StatusOf(job.state())},
      {"output_file_id", over && counts.succeeded() > 0 ? Json(kOutput + job.id()) : Json()},
      {"error_file_id", over && wrong ? Json(kErrors + job.id()) : Json()},
      {"created_at", Seconds(job.created_ms())},
      {"in_progress_at", Seconds(job.started_ms())},
      {"expires_at", Seconds(job.expires_ms())},
      {"finalizing_at", nullptr},
      {"completed_at", ended(v1::JOB_STATE_COMPLETED)},
      {"failed_at", nullptr},
      {"expired_at", ended(v1::JOB_STATE_EXPIRED)},
      {"cancelling_at", ended(v1::JOB_STATE_CANCELLED)},
      {"cancelled_at", ended(v1::JOB_STATE_CANCELLED)},
      {"request_counts",
       {{"total", counts.total()}, {"completed", counts.succeeded()}, {"failed", counts.failed()}}},
      {"metadata", std::move(metadata)},
      {"usage",
       {{"input_tokens", usage.prompt_tokens()},
        {"input_tokens_details", {{"cached_tokens", usage.cached_tokens()}}},
        {"output_tokens", usage.completion_tokens()},
        {"output_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens()}}},
        {"total_tokens", usage.prompt_tokens() + usage.completion_tokens()},
        {"cost_dollars", usage.cost_dollars()}}}};
}

Json ListJson(std::vector<Json> data, bool more) {
  return {{"object", "list"},
          {"first_id", data.empty() ? Json() : data.front()["id"]},
          {"last_id", data.empty() ? Json() : data.back()["id"]},
          {"has_more", more},
          {"data", std::move(data)}};
}

// A file that a job makes: its lines are written when they are asked for.
class JobLines {
 public:
  static absl::StatusOr<JobLines> Open(const Call& call, const std::string& job_id, bool answered) {
    ASSIGN_OR_RETURN(v1::Job job, call.store.Get(call.tenant, job_id));
    if (!IsOver(job.state())) {
      return absl::NotFoundError(absl::StrCat("batch ", job_id, " has not ended"));
    }
    return JobLines(&call.store, call.tenant, std::move(job), answered);
  }

  // Some lines; none: that was all.
  absl::StatusOr<std::string> Next() {
    std::string lines;
    while (lines.empty() && !over_) {
      ASSIGN_OR_RETURN(const v1::GetJobResultsResponse page,
                       store_->Results(tenant_, job_.id(), 0, token_));
      for (const v1::JobItem& item : page.items()) {
        if ((item.state() == v1::JOB_ITEM_STATE_SUCCEEDED) == answered_) {
          lines += BatchLine(job_, item);
        }
      }
      token_ = page.next_page_token();
      over_ = token_.empty();
    }
    return lines;
  }
  bool over() const { return over_; }
  const v1::Job& job() const { return job_; }

 private:
  JobLines(JobStore* store, std::string tenant, v1::Job job, bool answered)
      : store_(store), tenant_(std::move(tenant)), job_(std::move(job)), answered_(answered) {}

  JobStore* store_;
  std::string tenant_;
  v1::Job job_;
  bool answered_;
  std::string token_;
  bool over_ = false;
};

// The job whose answers, or errors, a file has; empty for an uploaded one.
std::string JobOfFile(absl::string_view id, bool* answered) {
  *answered = absl::ConsumePrefix(&id, kOutput);
  return *answered || absl::ConsumePrefix(&id, kErrors) ? std::string(id) : "";
}

absl::Status CheckFileSize(size_t bytes) {
  if (bytes <= kMostUpload) return absl::OkStatus();
  return BadField("file", "TOO_LONG", absl::StrCat(bytes, " bytes"),
                  absl::StrCat("at most ", kMostUpload));
}

// The text of a file that becomes a batch.
absl::StatusOr<std::string> TextOf(const Call& call, const std::string& id) {
  bool answered = false;
  const std::string job = JobOfFile(id, &answered);
  if (job.empty()) return call.store.ReadFile(call.tenant, id, 0, kMostUpload);
  ASSIGN_OR_RETURN(JobLines lines, JobLines::Open(call, job, answered));
  std::string text;
  while (!lines.over()) {
    ASSIGN_OR_RETURN(const std::string more, lines.Next());
    text += more;
    RETURN_IF_ERROR(CheckFileSize(text.size()));
  }
  return text;
}

// How many bytes a job's file has.
absl::StatusOr<int64_t> CountBytes(JobLines lines) {
  int64_t bytes = 0;
  while (!lines.over()) {
    ASSIGN_OR_RETURN(const std::string more, lines.Next());
    bytes += static_cast<int64_t>(more.size());
  }
  return bytes;
}

absl::StatusOr<BatchReply> ContentOf(const Call& call, const std::string& id) {
  BatchReply reply{.content_type = "application/octet-stream"};
  bool answered = false;
  const std::string job = JobOfFile(id, &answered);
  if (!job.empty()) {
    ASSIGN_OR_RETURN(JobLines opened, JobLines::Open(call, job, answered));
    const auto lines = std::make_shared<JobLines>(opened);
    ASSIGN_OR_RETURN(reply.body, lines->Next());
    if (lines->over()) return reply;
    reply.more = [lines] { return lines->Next(); };
    if (call.http.chunks) return reply;
    ASSIGN_OR_RETURN(reply.bytes, CountBytes(std::move(opened)));
    return reply;
  }
  ASSIGN_OR_RETURN(const JobFile file, call.store.GetFile(call.tenant, id));
  ASSIGN_OR_RETURN(reply.body, call.store.ReadFile(call.tenant, id, 0, kFilePart));
  if (file.bytes <= kFilePart) return reply;
  reply.bytes = file.bytes;
  reply.more = [store = &call.store, tenant = call.tenant, id, at = kFilePart]() mutable {
    return store->ReadFile(tenant, id, std::exchange(at, at + kFilePart), kFilePart);
  };
  return reply;
}

absl::StatusOr<JobFile> FileOf(const Call& call, const std::string& id) {
  bool answered = false;
  const std::string job_id = JobOfFile(id, &answered);
  if (job_id.empty()) return call.store.GetFile(call.tenant, id);
  ASSIGN_OR_RETURN(JobLines lines, JobLines::Open(call, job_id, answered));
  ASSIGN_OR_RETURN(const int64_t bytes, CountBytes(lines));
  return JobFile{.id = id,
                 .name = absl::StrCat(job_id, answered ? "_output.jsonl" : "_error.jsonl"),
                 .purpose = "batch_output",
                 .created_ms = lines.job().ended_ms(),
                 .bytes = bytes,
                 .expires_ms = call.store.DropsAtMs(lines.job())};
}

absl::StatusOr<BatchReply> CreateFile(const Call& call) {
  ASSIGN_OR_RETURN(const std::vector<FormPart> parts,
                   ParseMultipart(call.http.content_type, call.http.body));
  const FormPart* file = nullptr;
  std::string purpose;
  for (const FormPart& part : parts) {
    if (part.name == "file") file = &part;
    if (part.name == "purpose") purpose = std::string(part.content);
  }
  if (file == nullptr) return BadField("file", "MISSING", "missing", "a part of the form");
  RETURN_IF_ERROR(CheckFileSize(file->content.size()));
  if (purpose != "batch") return BadField("purpose", "NOT_SUPPORTED", purpose, "batch");
  if (file->filename.size() > kMostFilename ||
      FindInvalidUtf8(file->filename) != absl::string_view::npos) {
    return BadField("filename", "MALFORMED", file->filename,
                    absl::StrCat("at most ", kMostFilename, " bytes of UTF-8"));
  }
  ASSIGN_OR_RETURN(const JobFile made,
                   call.store.AddFile(call.tenant, file->filename, purpose, file->content));
  return Reply(FileJson(made));
}

absl::StatusOr<BatchReply> ListFiles(const Call& call) {
  ASSIGN_OR_RETURN(const uint32_t limit, call.Limit(kFilePage, kFilePage));
  ASSIGN_OR_RETURN(const std::vector<JobFile> files, call.store.ListFiles(call.tenant));
  const std::string after = call.Query("after"), purpose = call.Query("purpose");
  auto from = files.begin();
  if (!after.empty()) {
    from = std::find_if(files.begin(), files.end(),
                        [&after](const JobFile& file) { return file.id == after; });
    if (from == files.end()) return absl::NotFoundError(absl::StrCat("there is no file ", after));
    ++from;
  }
  std::vector<Json> data;
  for (; from != files.end(); ++from) {
    if (!purpose.empty() && from->purpose != purpose) continue;
    if (data.size() == limit) return Reply(ListJson(std::move(data), true));
    data.push_back(FileJson(*from));
  }
  return Reply(ListJson(std::move(data), false));
}

absl::StatusOr<BatchReply> AnswerFiles(const Call& call, const std::vector<std::string>& path) {
  const std::string& method = call.http.method;
  if (path.empty()) {
    if (method == "POST") return CreateFile(call);
    return method == "GET" ? ListFiles(call) : WrongMethod(call);
  }
  const std::string& id = path[0];
  if (path.size() == 2 && path[1] == "content") {
    return method == "GET" ? ContentOf(call, id) : WrongMethod(call);
  }
  if (path.size() != 1) return absl::NotFoundError(absl::StrCat("there is no ", call.http.target));
  if (method == "GET") {
    ASSIGN_OR_RETURN(const JobFile file, FileOf(call, id));
    return Reply(FileJson(file));
  }
  if (method != "DELETE") return WrongMethod(call);
  bool answered = false;
  if (!JobOfFile(id, &answered).empty()) {
    return absl::FailedPreconditionError(absl::StrCat(id, " belongs to its batch"));
  }
  RETURN_IF_ERROR(call.store.DeleteFile(call.tenant, id));
  return Reply({{"id", id}, {"object", "file"}, {"deleted", true}});
}

// A member that is absent, null or a text.
absl::StatusOr<std::string> TextField(const nlohmann::json& body, const char* key) {
  const auto it = body.find(key);
  if (it == body.end() || it->is_null()) return "";
  if (it->is_string()) return it->get<std::string>();
  return BadField(key, "WRONG_TYPE", Shown(*it), "a text");
}

// "24h"
absl::StatusOr<uint32_t> WindowSeconds(absl::string_view window) {
  constexpr uint32_t kMostHours = 720;
  uint32_t hours = 0;
  absl::string_view digits = window;
  if (absl::ConsumeSuffix(&digits, "h") && absl::SimpleAtoi(digits, &hours) && hours >= 1 &&
      hours <= kMostHours) {
    return hours * 3600;
  }
  return BadField("completion_window", "MALFORMED", std::string(window),
                  absl::StrCat("hours, as \"24h\", at most ", kMostHours));
}

absl::Status ReadMetadata(const nlohmann::json& body, v1::SubmitJobRequest* request) {
  const auto it = body.find("metadata");
  if (it == body.end() || it->is_null()) return absl::OkStatus();
  if (!it->is_object()) return BadField("metadata", "WRONG_TYPE", Shown(*it), "an object of texts");
  for (const auto& [key, value] : it->items()) {
    if (!value.is_string()) {
      return BadField("metadata", "WRONG_TYPE", Shown(value), "an object of texts");
    }
    (*request->mutable_metadata())[key] = value.get<std::string>();
  }
  return absl::OkStatus();
}

absl::StatusOr<BatchReply> CreateBatch(const Call& call) {
  ASSIGN_OR_RETURN(const nlohmann::json body, ParseJson(call.http.body, "body"));
  if (!body.is_object()) return BadField("body", "WRONG_TYPE", body.type_name(), "a JSON object");
  BatchOrigin origin;
  ASSIGN_OR_RETURN(origin.input_file_id, TextField(body, "input_file_id"));
  ASSIGN_OR_RETURN(origin.endpoint, TextField(body, "endpoint"));
  ASSIGN_OR_RETURN(const std::string window, TextField(body, "completion_window"));
  if (origin.endpoint != kChatUrl && origin.endpoint != kCompletionUrl) {
    return BadField("endpoint", "NOT_SUPPORTED", origin.endpoint,
                    absl::StrCat(kChatUrl, " or ", kCompletionUrl));
  }
  v1::SubmitJobRequest request;
  ASSIGN_OR_RETURN(const uint32_t seconds, WindowSeconds(window));
  request.set_expires_after_seconds(seconds);
  RETURN_IF_ERROR(ReadMetadata(body, &request));
  request.set_idempotency_key(call.http.idempotency_key);
  if (FindInvalidUtf8(call.http.idempotency_key) != absl::string_view::npos) {
    return BadField("Idempotency-Key", "MALFORMED", call.http.idempotency_key, "UTF-8");
  }
  if (origin.input_file_id.empty()) {
    return BadField("input_file_id", "MISSING", "missing", "the id of a file");
  }
  ASSIGN_OR_RETURN(*request.mutable_jsonl(), TextOf(call, origin.input_file_id));
  ASSIGN_OR_RETURN(const v1::Job job, call.jobs.Submit(call.tenant, request, origin));
  return Reply(BatchJson(job));
}

absl::StatusOr<BatchReply> ListBatches(const Call& call) {
  ASSIGN_OR_RETURN(const uint32_t limit, call.Limit(kBatchPage, kMostBatchPage));
  std::string token;
  if (const std::string after = call.Query("after"); !after.empty()) {
    ASSIGN_OR_RETURN(token, call.store.TokenAfter(call.tenant, after));
  }
  ASSIGN_OR_RETURN(const v1::ListJobsResponse page, call.store.List(call.tenant, limit, token));
  std::vector<Json> data;
  for (const v1::Job& job : page.jobs()) data.push_back(BatchJson(job));
  return Reply(ListJson(std::move(data), !page.next_page_token().empty()));
}

absl::StatusOr<BatchReply> AnswerBatches(const Call& call, const std::vector<std::string>& path) {
  const std::string& method = call.http.method;
  if (path.empty()) {
    if (method == "POST") return CreateBatch(call);
    return method == "GET" ? ListBatches(call) : WrongMethod(call);
  }
  if (path.size() == 1) {
    if (method != "GET") return WrongMethod(call);
    ASSIGN_OR_RETURN(const v1::Job job, call.store.Get(call.tenant, path[0]));
    return Reply(BatchJson(job));
  }
  if (path.size() != 2 || path[1] != "cancel") {
    return absl::NotFoundError(absl::StrCat("there is no ", call.http.target));
  }
  if (method != "POST") return WrongMethod(call);
  ASSIGN_OR_RETURN(const v1::Job job, call.store.Cancel(call.tenant, path[0]));
  return Reply(BatchJson(job));
}

}  // namespace

bool IsBatchPath(absl::string_view path) {
  for (const absl::string_view root : {kFiles, kBatches}) {
    if (path == root || absl::StartsWith(path, absl::StrCat(root, "/"))) return true;
  }
  return false;
}

bool MakesBatch(absl::string_view method, absl::string_view target) {
  return IsPostTo(kBatches, method, target);
}

bool IsFileUpload(absl::string_view method, absl::string_view target) {
  return IsPostTo(kFiles, method, target);
}

absl::StatusOr<BatchReply> AnswerBatch(JobApi& jobs, const std::string& tenant,
                                       const BatchCall& call) {
  ASSIGN_OR_RETURN(JobStore* const store, jobs.store());
  Call taken{jobs, *store, tenant, call, {}};
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(call.target, absl::MaxSplits('?', 1));
  for (const absl::string_view pair : absl::StrSplit(parts.second, '&', absl::SkipEmpty())) {
    const std::pair<std::string, std::string> entry = absl::StrSplit(pair, absl::MaxSplits('=', 1));
    taken.query.insert(entry);
  }
  const bool files = absl::StartsWith(parts.first, kFiles);
  const std::vector<std::string> path =
      absl::StrSplit(parts.first.substr(files ? sizeof(kFiles) - 1 : sizeof(kBatches) - 1), '/',
                     absl::SkipEmpty());
  return files ? AnswerFiles(taken, path) : AnswerBatches(taken, path);
}

}  // namespace whalepod
