// Opens a job store: makes its tables, or checks those that are there.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {
namespace {

constexpr int64_t kApplication = 0x5750'4a42;  // "WPJB"
constexpr int64_t kVersion = 1;

// States are those of jobs.proto. `ended`: an item's place in the order in which they ended.
constexpr char kSchema[] = R"(
CREATE TABLE jobs(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, key TEXT,
  hash BLOB NOT NULL, priority INTEGER NOT NULL, state INTEGER NOT NULL, spec BLOB NOT NULL,
  usage BLOB NOT NULL, created_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL,
  ended_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, total INTEGER NOT NULL,
  succeeded INTEGER NOT NULL, failed INTEGER NOT NULL, cancelled INTEGER NOT NULL,
  expired INTEGER NOT NULL, ended_items INTEGER NOT NULL);
CREATE UNIQUE INDEX jobs_key ON jobs(tenant, key) WHERE key IS NOT NULL;
CREATE INDEX jobs_tenant ON jobs(tenant, seq);
CREATE INDEX jobs_active ON jobs(priority, seq) WHERE state IN (1, 2);
CREATE TABLE items(
  job INTEGER NOT NULL, idx INTEGER NOT NULL, line INTEGER NOT NULL, custom_id TEXT NOT NULL,
  kind INTEGER NOT NULL, request BLOB NOT NULL, state INTEGER NOT NULL, ended INTEGER, answer BLOB,
  PRIMARY KEY(job, idx));
CREATE UNIQUE INDEX items_ended ON items(job, ended) WHERE ended IS NOT NULL;
CREATE TABLE files(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL,
  name TEXT NOT NULL, purpose TEXT NOT NULL, created_ms INTEGER NOT NULL, bytes INTEGER NOT NULL,
  content BLOB NOT NULL);
CREATE INDEX files_tenant ON files(tenant, seq);
)";

absl::StatusOr<int64_t> ReadInt(Database& database, const char* sql) {
  Database::Query query = database.Prepare(sql);
  ASSIGN_OR_RETURN(const bool found, query.Next());
  return found ? query.Int(0) : 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(const Options& options) {
  std::unique_ptr<JobStore> store(new JobStore(options));
  ASSIGN_OR_RETURN(store->database_, Database::Open(options.path));
  RETURN_IF_ERROR(store->Prepare());
  return store;
}

absl::Status JobStore::Prepare() {
  // One process at a time: two runners would answer each item twice. Held until the process ends.
  RETURN_IF_ERROR(database_->Execute("PRAGMA locking_mode=EXCLUSIVE"));
  RETURN_IF_ERROR(CheckSchema());
  {
    Database::Query query = database_->Prepare("PRAGMA journal_mode=WAL");
    RETURN_IF_ERROR(query.Next().status());
    if (query.Bytes(0) != "wal") {
      return absl::FailedPreconditionError(absl::StrCat(
          "job store ", options_.path, ": expected a file system that can keep a WAL, ",
          "SQLite found journal mode ", query.Bytes(0)));
    }
  }
  RETURN_IF_ERROR(database_->Execute("PRAGMA synchronous=FULL"));
  RETURN_IF_ERROR(database_->Execute("PRAGMA journal_size_limit=67108864"));
  if (options_.most_pages > 0) {
    RETURN_IF_ERROR(
        database_->Execute(absl::StrCat("PRAGMA max_page_count=", options_.most_pages).c_str()));
  }
  ASSIGN_OR_RETURN(const int64_t version, ReadInt(*database_, "PRAGMA user_version"));
  if (version == 0) return MakeSchema();
  return CheckContent();
}

absl::Status JobStore::MakeSchema() {
  return database_->Transaction([this]() -> absl::Status {
    RETURN_IF_ERROR(database_->Execute(kSchema));
    RETURN_IF_ERROR(
        database_->Execute(absl::StrCat("PRAGMA application_id=", kApplication).c_str()));
    return database_->Execute(absl::StrCat("PRAGMA user_version=", kVersion).c_str());
  });
}

absl::Status JobStore::CheckSchema() {
  ASSIGN_OR_RETURN(const int64_t version, ReadInt(*database_, "PRAGMA user_version"));
  ASSIGN_OR_RETURN(const int64_t application, ReadInt(*database_, "PRAGMA application_id"));
  ASSIGN_OR_RETURN(const int64_t tables, ReadInt(*database_, "SELECT count(*) FROM sqlite_schema"));
  if (tables == 0 && version == 0 && application == 0) return absl::OkStatus();
  if (application != kApplication) {
    return absl::FailedPreconditionError(
        absl::StrCat("job store ", options_.path, ": this is a database of another program"));
  }
  if (version != kVersion) {
    return absl::FailedPreconditionError(absl::StrCat("job store ", options_.path,
                                                      ": expected version ", kVersion,
                                                      " of the schema, found ", version));
  }
  return absl::OkStatus();
}

absl::Status JobStore::CheckContent() {
  Database::Query query = database_->Prepare("PRAGMA quick_check(1)");
  ASSIGN_OR_RETURN(const bool found, query.Next());
  const std::string said = found ? query.Bytes(0) : "nothing";
  if (said == "ok") return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("job store ", options_.path, ": the file is corrupt: ", said));
}

}  // namespace whalepod
