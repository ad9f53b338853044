#include "coordinator/jobs/job_store.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status.h"
#include "coordinator/usage/sums.h"

#define JOB_COLUMNS                                                                      \
  "seq, id, key, hash, priority, state, spec, usage, created_ms, started_ms, ended_ms, " \
  "expires_ms, "                                                                         \
  "total, succeeded, failed, cancelled, expired, ended_items"
#define ITEM_COLUMNS "idx, line, custom_id, state, ended, answer"

namespace whalepod {
namespace {

constexpr uint32_t kDefaultList = 20, kDefaultResults = 100, kMostPage = 1000;
// Clients take messages of four megabytes unless told otherwise.
constexpr size_t kPageBytes = 2 << 20;

uint32_t PageSize(uint32_t asked, uint32_t missing) {
  return std::min(asked == 0 ? missing : asked, kMostPage);
}

absl::StatusOr<int64_t> ReadToken(const std::string& token, int64_t missing) {
  int64_t place = 0;
  if (token.empty()) return missing;
  if (absl::SimpleAtoi(token, &place) && place >= 0) return place;
  return absl::InvalidArgumentError("page_token is not one that a page ended with");
}

v1::JobAnswer NotRun(v1::JobState why) {
  v1::JobAnswer answer;
  const bool cancelled = why == v1::JOB_STATE_CANCELLED;
  answer.set_error_code(cancelled ? "batch_cancelled" : "batch_expired");
  answer.set_error_message(cancelled ? "the job was cancelled before this item was answered"
                                     : "the job's time was over before this item was answered");
  return answer;
}

}  // namespace

std::string NewId(const std::string& prefix) {
  std::random_device random;
  std::string id = prefix;
  for (int i = 0; i < 4; ++i) absl::StrAppend(&id, absl::Hex(random(), absl::kZeroPad8));
  return id;
}

bool IsOver(v1::JobState state) {
  return state != v1::JOB_STATE_QUEUED && state != v1::JOB_STATE_RUNNING;
}

absl::Status JobStore::Write(const std::function<absl::Status()>& work) {
  RETURN_IF_ERROR(broken_);
  absl::Status status = database_->Transaction(work);
  // What a failed fsync left on disk is not known: only a fresh start reads it again.
  if (absl::IsUnavailable(status) || absl::IsDataLoss(status)) {
    broken_ = status;
    spdlog::error("{}; nothing more is written to it", status.ToString());
  }
  return status;
}

JobStore::Row JobStore::ReadRow(const Database::Query& query) {
  Row row;
  row.key = query.Int(0);
  v1::Job& job = row.job;
  job.ParseFromString(query.Bytes(6));  // what never changes and is not asked for by column
  job.set_id(query.Bytes(1));
  job.set_idempotency_key(query.Bytes(2));
  row.hash = query.Bytes(3);
  job.set_priority(static_cast<int32_t>(query.Int(4)));
  job.set_state(static_cast<v1::JobState>(query.Int(5)));
  job.mutable_usage()->ParseFromString(query.Bytes(7));
  job.set_created_ms(query.Int(8));
  job.set_started_ms(query.Int(9));
  job.set_ended_ms(query.Int(10));
  job.set_expires_ms(query.Int(11));
  const auto count = [&query](int column) { return static_cast<uint32_t>(query.Int(column)); };
  job.mutable_counts()->set_total(count(12));
  job.mutable_counts()->set_succeeded(count(13));
  job.mutable_counts()->set_failed(count(14));
  job.mutable_counts()->set_cancelled(count(15));
  job.mutable_counts()->set_expired(count(16));
  row.ended = count(17);
  return row;
}

v1::JobItem JobStore::ReadItem(const Database::Query& query) {
  v1::JobItem item;
  item.set_index(static_cast<uint32_t>(query.Int(0)));
  item.set_line(static_cast<uint32_t>(query.Int(1)));
  item.set_custom_id(query.Bytes(2));
  item.set_state(static_cast<v1::JobItemState>(query.Int(3)));
  item.set_ended(static_cast<uint32_t>(query.Int(4)));
  item.mutable_answer()->ParseFromString(query.Bytes(5));
  return item;
}

absl::StatusOr<JobStore::Row> JobStore::Find(const std::string& tenant, const std::string& id) {
  Database::Query query =
      database_->Prepare("SELECT " JOB_COLUMNS " FROM jobs WHERE id=? AND tenant=?");
  ASSIGN_OR_RETURN(const bool found, query.Bind(id).Bind(tenant).Next());
  if (!found)
    return absl::NotFoundError(absl::StrCat("there is no job \"", id.substr(0, 100), "\""));
  return ReadRow(query);
}

absl::StatusOr<std::optional<v1::Job>> JobStore::FindByKey(const NewJob& job) {
  if (job.idempotency_key.empty()) return std::nullopt;
  Database::Query query =
      database_->Prepare("SELECT " JOB_COLUMNS " FROM jobs WHERE tenant=? AND key=?");
  ASSIGN_OR_RETURN(const bool found, query.Bind(job.tenant).Bind(job.idempotency_key).Next());
  if (!found) return std::nullopt;
  Row earlier = ReadRow(query);
  if (earlier.hash == job.hash) return std::move(earlier.job);
  return absl::AlreadyExistsError(absl::StrCat("idempotency key \"", job.idempotency_key,
                                               "\" has made job ", earlier.job.id(),
                                               ", which is another one"));
}

absl::StatusOr<std::optional<v1::Job>> JobStore::FindSubmitted(const NewJob& job) {
  std::lock_guard lock(mu_);
  return FindByKey(job);
}

absl::StatusOr<v1::Job> JobStore::Submit(const NewJob& job) {
  if (job.items.empty()) return absl::InvalidArgumentError("the job has no items");
  Row row;
  {
    std::lock_guard lock(mu_);
    ASSIGN_OR_RETURN(const std::optional<v1::Job> earlier, FindByKey(job));
    if (earlier) return *earlier;
    RETURN_IF_ERROR(Write([&]() -> absl::Status {
      ASSIGN_OR_RETURN(row, Insert(job));
      return absl::OkStatus();
    }));
  }
  Tell({row.job.id()});
  return row.job;
}

absl::StatusOr<JobStore::Row> JobStore::Insert(const NewJob& job) {
  uint32_t failed = 0;
  for (const NewItem& item : job.items) failed += item.failed.has_value() ? 1 : 0;
  const bool over = failed == job.items.size();
  const int64_t now = options_.now_ms();
  v1::Job spec;
  spec.set_endpoint(job.endpoint);
  spec.set_input_file_id(job.input_file_id);
  *spec.mutable_metadata() = job.metadata;
  const std::string id = NewId("job-");
  {
    Database::Query query = database_->Prepare(
        "INSERT INTO jobs(id, tenant, key, hash, priority, state, spec, usage, created_ms, "
        "started_ms, ended_ms, expires_ms, total, succeeded, failed, cancelled, expired, "
        "ended_items) VALUES(?, ?, NULLIF(?, ''), ?, ?, ?, ?, x'', ?, 0, ?, ?, ?, 0, ?, 0, 0, ?)");
    query.Bind(id).Bind(job.tenant).Bind(job.idempotency_key).BindBlob(job.hash);
    query.Bind(job.priority).Bind(over ? v1::JOB_STATE_COMPLETED : v1::JOB_STATE_QUEUED);
    query.BindBlob(spec.SerializeAsString()).Bind(now).Bind(over ? now : 0);
    query.Bind(now + job.expires_after_ms).Bind(static_cast<int64_t>(job.items.size()));
    RETURN_IF_ERROR(query.Bind(failed).Bind(failed).Run());
  }
  const int64_t key = database_->last_row();
  uint32_t ended = 0;
  for (uint32_t i = 0; i < job.items.size(); ++i) {
    RETURN_IF_ERROR(InsertItem(key, i, job.items[i], ended));
    ended += job.items[i].failed.has_value() ? 1 : 0;
  }
  return Find(job.tenant, id);
}

absl::Status JobStore::InsertItem(int64_t job, uint32_t index, const NewItem& item,
                                  uint32_t ended) {
  Database::Query query = database_->Prepare(
      "INSERT INTO items(job, idx, line, custom_id, kind, request, state, ended, answer) "
      "VALUES(?, ?, ?, ?, ?, ?, ?, NULLIF(?, -1), ?)");
  query.Bind(job).Bind(index).Bind(item.line).Bind(item.custom_id);
  query.Bind(static_cast<int64_t>(item.kind)).BindBlob(item.request);
  query.Bind(item.failed ? v1::JOB_ITEM_STATE_FAILED : v1::JOB_ITEM_STATE_PENDING);
  query.Bind(item.failed ? int64_t{ended} : -1);
  return query.BindBlob(item.failed ? item.failed->SerializeAsString() : "").Run();
}

absl::StatusOr<v1::Job> JobStore::Get(const std::string& tenant, const std::string& id) {
  std::lock_guard lock(mu_);
  ASSIGN_OR_RETURN(Row row, Find(tenant, id));
  return std::move(row.job);
}

absl::StatusOr<v1::ListJobsResponse> JobStore::List(const std::string& tenant, uint32_t page_size,
                                                    const std::string& page_token) {
  ASSIGN_OR_RETURN(const int64_t before, ReadToken(page_token, INT64_MAX));
  const uint32_t size = PageSize(page_size, kDefaultList);
  std::lock_guard lock(mu_);
  Database::Query query = database_->Prepare(
      "SELECT " JOB_COLUMNS " FROM jobs WHERE tenant=? AND seq<? ORDER BY seq DESC LIMIT ?");
  query.Bind(tenant).Bind(before).Bind(int64_t{size} + 1);
  v1::ListJobsResponse response;
  int64_t last = 0;
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return response;
    if (response.jobs_size() == static_cast<int>(size)) break;
    Row row = ReadRow(query);
    last = row.key;
    *response.add_jobs() = std::move(row.job);
  }
  response.set_next_page_token(absl::StrCat(last));
  return response;
}

absl::StatusOr<std::string> JobStore::TokenAfter(const std::string& tenant, const std::string& id) {
  std::lock_guard lock(mu_);
  ASSIGN_OR_RETURN(const Row row, Find(tenant, id));
  return absl::StrCat(row.key);
}

absl::StatusOr<v1::GetJobResultsResponse> JobStore::Results(const std::string& tenant,
                                                            const std::string& id,
                                                            uint32_t page_size,
                                                            const std::string& page_token) {
  ASSIGN_OR_RETURN(const int64_t from, ReadToken(page_token, 0));
  const uint32_t size = PageSize(page_size, kDefaultResults);
  std::lock_guard lock(mu_);
  ASSIGN_OR_RETURN(const Row row, Find(tenant, id));
  Database::Query query =
      database_->Prepare("SELECT " ITEM_COLUMNS
                         " FROM items WHERE job=? AND idx>=? AND state<>1 ORDER BY idx LIMIT ?");
  query.Bind(row.key).Bind(from).Bind(int64_t{size} + 1);
  v1::GetJobResultsResponse response;
  size_t bytes = 0;
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return response;
    v1::JobItem item = ReadItem(query);
    bytes += item.ByteSizeLong();
    const bool full = response.items_size() > 0 && bytes > kPageBytes;
    if (full || response.items_size() == static_cast<int>(size)) {
      response.set_next_page_token(absl::StrCat(item.index()));
      return response;
    }
    *response.add_items() = std::move(item);
  }
}

absl::StatusOr<v1::WatchJobResponse> JobStore::Watch(const std::string& tenant,
                                                     const std::string& id, uint32_t from,
                                                     uint32_t most) {
  std::lock_guard lock(mu_);
  ASSIGN_OR_RETURN(Row row, Find(tenant, id));
  v1::WatchJobResponse response;
  *response.mutable_job() = std::move(row.job);
  Database::Query query = database_->Prepare(
      "SELECT " ITEM_COLUMNS " FROM items WHERE job=? AND ended>=? ORDER BY ended LIMIT ?");
  query.Bind(row.key).Bind(from).Bind(most);
  size_t bytes = 0;
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return response;
    v1::JobItem item = ReadItem(query);
    bytes += item.ByteSizeLong();
    if (response.items_size() > 0 && bytes > kPageBytes) return response;
    *response.add_items() = std::move(item);
  }
}

absl::StatusOr<v1::JobItem> JobStore::Item(const std::string& tenant, const std::string& id,
                                           uint32_t index) {
  std::lock_guard lock(mu_);
  ASSIGN_OR_RETURN(const Row row, Find(tenant, id));
  Database::Query query =
      database_->Prepare("SELECT " ITEM_COLUMNS " FROM items WHERE job=? AND idx=?");
  ASSIGN_OR_RETURN(const bool found, query.Bind(row.key).Bind(int64_t{index}).Next());
  if (found) return ReadItem(query);
  return absl::OutOfRangeError(
      absl::StrCat("the job has ", row.job.counts().total(), " items, and no item ", index));
}

absl::Status JobStore::EndJob(int64_t key, v1::JobState state) {
  const bool cancelled = state == v1::JOB_STATE_CANCELLED;
  {
    Database::Query query = database_->Prepare(
        "UPDATE items SET state=?, answer=?, ended=pending.place + "
        "(SELECT ended_items FROM jobs WHERE seq=items.job) FROM (SELECT idx AS i, "
        "row_number() OVER (ORDER BY idx) - 1 AS place FROM items WHERE job=? AND state=1) "
        "AS pending WHERE items.job=? AND items.idx=pending.i");
    query.Bind(cancelled ? v1::JOB_ITEM_STATE_CANCELLED : v1::JOB_ITEM_STATE_EXPIRED);
    RETURN_IF_ERROR(query.BindBlob(NotRun(state).SerializeAsString()).Bind(key).Bind(key).Run());
  }
  const int64_t items = database_->changes();
  Database::Query query = database_->Prepare(
      "UPDATE jobs SET state=?, ended_ms=?, cancelled=cancelled+?, expired=expired+?, "
      "ended_items=ended_items+? WHERE seq=?");
  query.Bind(state).Bind(options_.now_ms()).Bind(cancelled ? items : 0).Bind(cancelled ? 0 : items);
  return query.Bind(items).Bind(key).Run();
}

absl::StatusOr<v1::Job> JobStore::Cancel(const std::string& tenant, const std::string& id) {
  Row row;
  {
    std::lock_guard lock(mu_);
    ASSIGN_OR_RETURN(row, Find(tenant, id));
    if (IsOver(row.job.state())) return row.job;
    RETURN_IF_ERROR(Write([&] { return EndJob(row.key, v1::JOB_STATE_CANCELLED); }));
    ASSIGN_OR_RETURN(row, Find(tenant, id));
  }
  Tell({id});
  return row.job;
}

absl::Status JobStore::Expire() {
  std::vector<int64_t> keys;
  std::vector<std::string> ids;
  {
    std::lock_guard lock(mu_);
    {
      Database::Query query =
          database_->Prepare("SELECT seq, id FROM jobs WHERE state IN (1, 2) AND expires_ms<=?");
      query.Bind(options_.now_ms());
      for (;;) {
        ASSIGN_OR_RETURN(const bool found, query.Next());
        if (!found) break;
        keys.push_back(query.Int(0));
        ids.push_back(query.Bytes(1));
      }
    }
    if (keys.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(Write([&]() -> absl::Status {
      for (const int64_t key : keys) RETURN_IF_ERROR(EndJob(key, v1::JOB_STATE_EXPIRED));
      return absl::OkStatus();
    }));
  }
  Tell(ids);
  return absl::OkStatus();
}

int64_t JobStore::DropsAtMs(const v1::Job& job) const {
  return options_.retention_ms == 0 ? 0 : job.ended_ms() + options_.retention_ms;
}

absl::StatusOr<int> JobStore::Drop() {
  constexpr int64_t kMostItems = 10'000;  // a fraction of a second
  constexpr int kMostJobs = 1000;
  int dropped = 0;
  for (int64_t items = 0; items < kMostItems && dropped < kMostJobs; ++dropped) {
    std::lock_guard lock(mu_);  // one by one: others wait meanwhile
    ASSIGN_OR_RETURN(const int64_t more, DropOldest());
    if (more == 0) break;
    items += more;
  }
  if (dropped > 0) {
    spdlog::info("{} jobs dropped: they ended more than {} s ago", dropped,
                 options_.retention_ms / 1000);
  }
  return dropped;
}

absl::StatusOr<int64_t> JobStore::DropOldest() {
  if (options_.retention_ms == 0) return 0;
  int64_t key = 0, items = 0;
  {
    Database::Query query = database_->Prepare(
        "SELECT seq, total FROM jobs WHERE ended_ms>0 AND ended_ms<=? ORDER BY ended_ms LIMIT 1");
    ASSIGN_OR_RETURN(const bool found,
                     query.Bind(options_.now_ms() - options_.retention_ms).Next());
    if (!found) return 0;
    key = query.Int(0);
    items = query.Int(1);
  }
  RETURN_IF_ERROR(Write([&]() -> absl::Status {
    for (const char* drop : {"DELETE FROM items WHERE job=?", "DELETE FROM jobs WHERE seq=?"}) {
      Database::Query query = database_->Prepare(drop);
      RETURN_IF_ERROR(query.Bind(key).Run());
    }
    return absl::OkStatus();
  }));
  return items;
}

absl::StatusOr<std::vector<ActiveJob>> JobStore::Active() {
  std::lock_guard lock(mu_);
  Database::Query query = database_->Prepare(
      "SELECT seq, priority FROM jobs WHERE state IN (1, 2) ORDER BY priority, seq");
  std::vector<ActiveJob> jobs;
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return jobs;
    jobs.push_back({query.Int(0), static_cast<int32_t>(query.Int(1))});
  }
}

absl::StatusOr<std::vector<PendingItem>> JobStore::Pending(int64_t job, uint32_t from,
                                                           uint32_t most) {
  std::lock_guard lock(mu_);
  Database::Query query = database_->Prepare(
      "SELECT idx, kind, request, id, tenant, priority FROM items, jobs "
      "WHERE job=? AND seq=job AND idx>=? AND items.state=1 ORDER BY idx LIMIT ?");
  query.Bind(job).Bind(from).Bind(most);
  std::vector<PendingItem> items;
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return items;
    PendingItem item;
    item.job = job;
    item.index = static_cast<uint32_t>(query.Int(0));
    item.kind = static_cast<RequestKind>(query.Int(1));
    item.request = query.Bytes(2);
    item.job_id = query.Bytes(3);
    item.tenant = query.Bytes(4);
    item.priority = static_cast<int32_t>(query.Int(5));
    items.push_back(std::move(item));
  }
}

absl::Status JobStore::MarkStarted(int64_t job) {
  std::lock_guard lock(mu_);
  return Write([&] {
    Database::Query query =
        database_->Prepare("UPDATE jobs SET state=2, started_ms=? WHERE seq=? AND state=1");
    return query.Bind(options_.now_ms()).Bind(job).Run();
  });
}

absl::StatusOr<bool> JobStore::FinishOne(const EndedItem& item) {
  const bool succeeded = item.answer.status_code() == 200;
  {
    Database::Query query = database_->Prepare(
        "UPDATE items SET state=?, answer=?, ended=(SELECT ended_items FROM jobs WHERE seq=?) "
        "WHERE job=? AND idx=? AND state=1");
    query.Bind(succeeded ? v1::JOB_ITEM_STATE_SUCCEEDED : v1::JOB_ITEM_STATE_FAILED);
    query.BindBlob(item.answer.SerializeAsString());
    RETURN_IF_ERROR(query.Bind(item.job).Bind(item.job).Bind(item.index).Run());
  }
  if (database_->changes() == 0) return false;  // cancelled or expired in the meantime
  v1::Usage usage;
  {
    Database::Query query = database_->Prepare("SELECT usage FROM jobs WHERE seq=?");
    RETURN_IF_ERROR(query.Bind(item.job).Next().status());
    usage.ParseFromString(query.Bytes(0));
  }
  AddRequest(item.answer.usage(), &usage);
  {
    Database::Query query = database_->Prepare(
        "UPDATE jobs SET succeeded=succeeded+?, failed=failed+?, ended_items=ended_items+1, "
        "usage=? WHERE seq=?");
    query.Bind(succeeded ? 1 : 0).Bind(succeeded ? 0 : 1).BindBlob(usage.SerializeAsString());
    RETURN_IF_ERROR(query.Bind(item.job).Run());
  }
  Database::Query query =
      database_->Prepare("UPDATE jobs SET state=3, ended_ms=? WHERE seq=? AND ended_items=total");
  RETURN_IF_ERROR(query.Bind(options_.now_ms()).Bind(item.job).Run());
  return true;
}

absl::Status JobStore::Finish(const std::vector<EndedItem>& items) {
  std::vector<std::string> ids;
  {
    std::lock_guard lock(mu_);
    RETURN_IF_ERROR(Write([&]() -> absl::Status {
      for (const EndedItem& item : items) {
        ASSIGN_OR_RETURN(const bool changed, FinishOne(item));
        if (!changed) continue;
        Database::Query query = database_->Prepare("SELECT id FROM jobs WHERE seq=?");
        RETURN_IF_ERROR(query.Bind(item.job).Next().status());
        ids.push_back(query.Bytes(0));
      }
      return absl::OkStatus();
    }));
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  Tell(ids);
  return absl::OkStatus();
}

int JobStore::AddListener(Listener changed) {
  std::lock_guard lock(listeners_mu_);
  listeners_[next_listener_] = std::move(changed);
  return next_listener_++;
}

void JobStore::RemoveListener(int number) {
  std::lock_guard lock(listeners_mu_);
  listeners_.erase(number);
}

void JobStore::Tell(const std::vector<std::string>& ids) {
  std::lock_guard lock(listeners_mu_);
  for (const auto& [number, changed] : listeners_) {
    for (const std::string& id : ids) changed(id);
  }
}

}  // namespace whalepod
