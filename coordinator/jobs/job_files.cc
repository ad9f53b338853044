// Files that clients have uploaded.
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/jobs/job_store.h"

namespace whalepod {
namespace {

absl::Status NoFile(const std::string& id) {
  return absl::NotFoundError(absl::StrCat("there is no file \"", id.substr(0, 100), "\""));
}

JobFile ReadFileRow(const Database::Query& query) {
  return {query.Bytes(0), query.Bytes(1), query.Bytes(2), query.Int(3), query.Int(4)};
}

}  // namespace

absl::StatusOr<JobFile> JobStore::AddFile(const std::string& tenant, const std::string& name,
                                          const std::string& purpose, absl::string_view content) {
  const JobFile file = {NewId("file-"), name, purpose, options_.now_ms(),
                        static_cast<int64_t>(content.size())};
  std::lock_guard lock(mu_);
  RETURN_IF_ERROR(Write([&] {
    Database::Query query = database_->Prepare(
        "INSERT INTO files(id, tenant, name, purpose, created_ms, bytes, content) "
        "VALUES(?, ?, ?, ?, ?, ?, ?)");
    query.Bind(file.id).Bind(tenant).Bind(name).Bind(purpose).Bind(file.created_ms);
    return query.Bind(file.bytes).BindLargeBlob(content).Run();
  }));
  return file;
}

absl::StatusOr<JobFile> JobStore::GetFile(const std::string& tenant, const std::string& id) {
  std::lock_guard lock(mu_);
  Database::Query query = database_->Prepare(
      "SELECT id, name, purpose, created_ms, bytes FROM files WHERE id=? AND tenant=?");
  ASSIGN_OR_RETURN(const bool found, query.Bind(id).Bind(tenant).Next());
  if (!found) return NoFile(id);
  return ReadFileRow(query);
}

absl::StatusOr<std::string> JobStore::ReadFile(const std::string& tenant, const std::string& id,
                                               int64_t from, int64_t most) {
  std::lock_guard lock(mu_);
  Database::Query query = database_->Prepare("SELECT seq FROM files WHERE id=? AND tenant=?");
  ASSIGN_OR_RETURN(const bool found, query.Bind(id).Bind(tenant).Next());
  if (!found) return NoFile(id);
  return database_->ReadBlob("files", "content", query.Int(0), from, most);
}

absl::StatusOr<std::vector<JobFile>> JobStore::ListFiles(const std::string& tenant) {
  std::lock_guard lock(mu_);
  Database::Query query = database_->Prepare(
      "SELECT id, name, purpose, created_ms, bytes FROM files WHERE tenant=? ORDER BY seq DESC");
  query.Bind(tenant);
  std::vector<JobFile> files;
  for (;;) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return files;
    files.push_back(ReadFileRow(query));
  }
}

absl::Status JobStore::DeleteFile(const std::string& tenant, const std::string& id) {
  std::lock_guard lock(mu_);
  RETURN_IF_ERROR(Write([&] {
    Database::Query query = database_->Prepare("DELETE FROM files WHERE id=? AND tenant=?");
    return query.Bind(id).Bind(tenant).Run();
  }));
  return database_->changes() == 0 ? NoFile(id) : absl::OkStatus();
}

}  // namespace whalepod
