// The job store's file.
#include <utility>

#include "base/status.h"
#include "coordinator/jobs/job_store.h"
#include "coordinator/storage/store_file.h"

namespace whalepod {
namespace {

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

// Came later: files of before get it when they are opened.
constexpr const char* kLater[] = {
    "CREATE INDEX IF NOT EXISTS jobs_ended ON jobs(ended_ms) WHERE ended_ms>0",
    // A file's content is in parts, so that one of them is read without the others; that of files
    // of before is in `files`.
    "CREATE TABLE IF NOT EXISTS file_parts(file INTEGER NOT NULL, n INTEGER NOT NULL, "
    "content BLOB NOT NULL, PRIMARY KEY(file, n))"};

constexpr StoreFormat kFormat = {
    .name = "job store",
    .application = 0x5750'4a42,  // "WPJB"
    .version = 1,
    .schema = kSchema,
};

}  // namespace

absl::StatusOr<std::unique_ptr<JobStore>> JobStore::Open(const Options& options) {
  std::unique_ptr<JobStore> store(new JobStore(options));
  ASSIGN_OR_RETURN(store->database_, OpenStore(options.path, kFormat, options.most_pages));
  RETURN_IF_ERROR(store->database_->Transaction([&]() -> absl::Status {
    for (const char* later : kLater) RETURN_IF_ERROR(store->database_->Prepare(later).Run());
    return absl::OkStatus();
  }));
  return store;
}

}  // namespace whalepod
