#include "coordinator/storage/database.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/status.h"

namespace whalepod {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    case SQLITE_FULL:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kFailedPrecondition;
    case SQLITE_CANTOPEN:
      return absl::StatusCode::kNotFound;
    case SQLITE_IOERR:
      return absl::StatusCode::kUnavailable;
    case SQLITE_TOOBIG:
      return absl::StatusCode::kInvalidArgument;
    default:
      return absl::StatusCode::kInternal;
  }
}

const char* Explain(int error) {
  switch (error & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return "the file is corrupt";
    case SQLITE_FULL:
      return "the disk is full";
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return "the file or its folder can only be read";
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return "another process holds the file";
    case SQLITE_CANTOPEN:
      return "the file can't be opened";
    case SQLITE_IOERR:
      return "the disk fails";
    default:
      return "unexpected";
  }
}

}  // namespace

absl::Status Database::ToStatus(int error) const {
  if (error == SQLITE_OK || error == SQLITE_ROW || error == SQLITE_DONE) return absl::OkStatus();
  return absl::Status(CodeOf(error), absl::StrCat(where_, ": ", Explain(error), " (SQLite error ",
                                                  error, ": ", sqlite3_errmsg(handle_), ")"));
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& name,
                                                         const std::string& path) {
  std::unique_ptr<Database> database(new Database(absl::StrCat(name, " ", path)));
  const int flags =
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  const int error = sqlite3_open_v2(path.c_str(), &database->handle_, flags, nullptr);
  RETURN_IF_ERROR(database->ToStatus(error));
  // SQLite is content with a file that it may only read.
  if (sqlite3_db_readonly(database->handle_, "main") == 1) {
    return database->ToStatus(SQLITE_READONLY);
  }
  return database;
}

Database::~Database() {
  for (const auto& [sql, statement] : statements_) sqlite3_finalize(statement);
  sqlite3_close(handle_);
}

Database::Query Database::Prepare(const char* sql) {
  sqlite3_stmt*& statement = statements_[sql];
  int error = SQLITE_OK;
  if (statement == nullptr) {
    error = sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  }
  return Query(this, statement, error);
}

absl::Status Database::Execute(const char* sql) {
  return ToStatus(sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr));
}

absl::Status Database::Transaction(const std::function<absl::Status()>& work) {
  RETURN_IF_ERROR(Execute("BEGIN IMMEDIATE"));
  absl::Status status = work();
  if (status.ok()) status = Execute("COMMIT");
  // Some errors have rolled it back already.
  if (!status.ok() && sqlite3_get_autocommit(handle_) == 0) {
    if (absl::Status back = Execute("ROLLBACK"); !back.ok()) spdlog::error("{}", back.ToString());
  }
  return status;
}

Database::Query::~Query() {
  if (statement_ == nullptr) return;
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
}

void Database::Query::Note(int error) {
  if (error_ == SQLITE_OK) error_ = error;
}

Database::Query& Database::Query::Bind(int64_t value) {
  if (statement_ != nullptr) Note(sqlite3_bind_int64(statement_, ++bound_, value));
  return *this;
}

Database::Query& Database::Query::Bind(const std::string& text) {
  if (statement_ != nullptr) {
    Note(sqlite3_bind_text64(statement_, ++bound_, text.data(), text.size(), SQLITE_TRANSIENT,
                             SQLITE_UTF8));
  }
  return *this;
}

Database::Query& Database::Query::BindReal(double value) {
  if (statement_ != nullptr) Note(sqlite3_bind_double(statement_, ++bound_, value));
  return *this;
}

Database::Query& Database::Query::BindBlob(absl::string_view bytes) {
  if (statement_ != nullptr) {
    Note(sqlite3_bind_blob64(statement_, ++bound_, bytes.data(), bytes.size(), SQLITE_TRANSIENT));
  }
  return *this;
}

absl::StatusOr<bool> Database::Query::Next() {
  RETURN_IF_ERROR(database_->ToStatus(error_));
  CHECK_EQ(bound_, sqlite3_bind_parameter_count(statement_));
  const int found = sqlite3_step(statement_);
  RETURN_IF_ERROR(database_->ToStatus(found));
  return found == SQLITE_ROW;
}

absl::Status Database::Query::Run() { return Next().status(); }

std::string Database::Query::Bytes(int column) const {
  const void* const bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? "" : std::string(static_cast<const char*>(bytes), size);
}

}  // namespace whalepod
