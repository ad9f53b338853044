// Files that clients have uploaded.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
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
  RETURN_IF_ERROR(Write([&]() -> absl::Status {
    {
      Database::Query query = database_->Prepare(
          "INSERT INTO files(id, tenant, name, purpose, created_ms, bytes, content) "
          "VALUES(?, ?, ?, ?, ?, ?, x'')");
      query.Bind(file.id).Bind(tenant).Bind(name).Bind(purpose).Bind(file.created_ms);
      RETURN_IF_ERROR(query.Bind(file.bytes).Run());
    }
    const int64_t key = database_->last_row();
    for (int64_t n = 0; n * kFilePart < file.bytes; ++n) {
      Database::Query query =
          database_->Prepare("INSERT INTO file_parts(file, n, content) VALUES(?, ?, ?)");
      query.Bind(key).Bind(n);
      RETURN_IF_ERROR(query.BindBlob(content.substr(n * kFilePart, kFilePart)).Run());
    }
    return absl::OkStatus();
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
  CHECK(from >= 0 && from % kFilePart == 0);
  std::lock_guard lock(mu_);
  int64_t key = 0;
  {
    Database::Query query =
        database_->Prepare("SELECT seq, content FROM files WHERE id=? AND tenant=?");
    ASSIGN_OR_RETURN(const bool found, query.Bind(id).Bind(tenant).Next());
    if (!found) return NoFile(id);
    key = query.Int(0);
    const std::string whole = query.Bytes(1);
    if (!whole.empty()) {
      return whole.substr(std::min(static_cast<size_t>(from), whole.size()),
                          static_cast<size_t>(most));
    }
  }
  Database::Query query =
      database_->Prepare("SELECT content FROM file_parts WHERE file=? AND n>=? ORDER BY n");
  query.Bind(key).Bind(from / kFilePart);
  std::string content;
  while (static_cast<int64_t>(content.size()) < most) {
    ASSIGN_OR_RETURN(const bool found, query.Next());
    if (!found) return content;
    content += query.Bytes(0);
  }
  content.resize(static_cast<size_t>(most));
  return content;
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
  RETURN_IF_ERROR(Write([&]() -> absl::Status {
    for (const char* drop :
         {"DELETE FROM file_parts WHERE file=(SELECT seq FROM files WHERE id=? AND tenant=?)",
          "DELETE FROM files WHERE id=? AND tenant=?"}) {
      Database::Query query = database_->Prepare(drop);
      RETURN_IF_ERROR(query.Bind(id).Bind(tenant).Run());
    }
    return absl::OkStatus();
  }));
  return database_->changes() == 0 ? NoFile(id) : absl::OkStatus();
}

}  // namespace whalepod
